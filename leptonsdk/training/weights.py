"""Layers that compute with a transformed weight, or on transformed inputs, while they are trained.

Masks and fake quantizers of several compressors meet at one layer. Each is a module of its own, applied in the order in which
they were added; the layer's own parameters keep their names, so that a checkpoint of the training is a plain model with some
tensors more.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

WEIGHT, INPUT = "weight_transforms", "input_transforms"


class _Transformed(nn.Module):
    """What a layer's class is mixed with while it has transforms."""

    def effective_weight(self) -> Tensor:
        """The weight that it computes with, of the shape of its own."""
        weight: Tensor = self.weight  # type: ignore[assignment]
        for transform in _transforms(self, WEIGHT).values():
            weight = transform(weight)
        return weight

    def forward(self, x: Tensor) -> Tensor:
        for transform in _transforms(self, INPUT).values():
            x = transform(x)
        return self.product(x)

    def product(self, x: Tensor) -> Tensor:
        raise AssertionError  # every class below has its own


class TransformedLinear(_Transformed, nn.Linear):
    """An ``nn.Linear`` with transforms."""

    def product(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.effective_weight(), self.bias)


class TransformedConv1D(_Transformed, Conv1D):  # type: ignore[misc]
    """transformers' ``Conv1D`` (GPT-2) with transforms; its weight is ``[in, out]``."""

    def product(self, x: Tensor) -> Tensor:
        bias: Tensor | None = self.bias  # type: ignore[assignment]
        return functional.linear(x, self.effective_weight().t(), bias)


class TransformedEmbedding(_Transformed, nn.Embedding):
    """An ``nn.Embedding`` with transforms of its weight."""

    def product(self, x: Tensor) -> Tensor:
        return functional.embedding(x, self.effective_weight(), self.padding_idx)


_CLASSES: dict[type[nn.Module], type[_Transformed]] = {
    nn.Linear: TransformedLinear,
    Conv1D: TransformedConv1D,
    nn.Embedding: TransformedEmbedding,
}


def transform_weight(layer: nn.Module, name: str, transform: nn.Module) -> None:
    """Have a layer compute with ``transform(weight)``.

    Args:
        layer: An ``nn.Linear``, ``Conv1D`` or ``nn.Embedding``; no subclass with a forward of its own.
        name: Of the transform, which the layer holds as a module from now on.
        transform: From the weight to one of the same shape.

    Raises:
        TypeError: Another class of layer.
    """
    _add(layer, WEIGHT, name, transform)


def transform_inputs(layer: nn.Module, name: str, transform: nn.Module) -> None:
    """Have a layer read ``transform(x)``; otherwise as `transform_weight`."""
    _add(layer, INPUT, name, transform)


def effective_weight(layer: nn.Module) -> Tensor:
    """The weight that a layer computes with, transformed or not."""
    if isinstance(layer, _Transformed):
        return layer.effective_weight()
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return weight


def fold(layer: nn.Module, *names: str) -> None:
    """Take transforms away: the weight becomes what the weight's transforms of these names made of it.

    Without names all go. A layer that has none left is what it was before.
    """
    if not isinstance(layer, _Transformed):
        return
    for kind in (WEIGHT, INPUT):
        found = _transforms(layer, kind)
        for name in [n for n in found if not names or n in names]:
            if kind == WEIGHT:
                weight: Tensor = layer.weight  # type: ignore[assignment]
                weight.data = found[name](weight).detach().clone()
            del found[name]
    if not _transforms(layer, WEIGHT) and not _transforms(layer, INPUT):
        delattr(layer, WEIGHT)
        delattr(layer, INPUT)
        own = next(base for base, cls in _CLASSES.items() if type(layer) is cls)
        layer.__class__ = own  # type: ignore[assignment]


def _add(layer: nn.Module, kind: str, name: str, transform: nn.Module) -> None:
    if not isinstance(layer, _Transformed):
        if type(layer) not in _CLASSES:
            raise TypeError(f"a {type(layer).__name__} cannot have transforms, only {[c.__name__ for c in _CLASSES]}")
        layer.__class__ = _CLASSES[type(layer)]
        layer.add_module(WEIGHT, nn.ModuleDict())
        layer.add_module(INPUT, nn.ModuleDict())
    _transforms(layer, kind)[name] = transform


def _transforms(layer: Any, kind: str) -> nn.ModuleDict:
    found: nn.ModuleDict = getattr(layer, kind)
    return found
