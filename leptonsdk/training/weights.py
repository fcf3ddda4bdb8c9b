"""Layers that compute with a transformed weight while they are trained.

The masks of several compressors may meet at one layer. Each is a module of its own, applied in the order in which
they were added; the layer's own parameters keep their names, so that a checkpoint of the training is a plain model with some
tensors more.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

_NAME = "weight_transforms"


class _Transformed(nn.Module):
    """What a layer's class is mixed with while it has transforms."""

    def effective_weight(self) -> Tensor:
        """The weight that it computes with, of the shape of its own."""
        weight: Tensor = self.weight  # type: ignore[assignment]
        for transform in _transforms(self).values():
            weight = transform(weight)
        return weight


class TransformedLinear(_Transformed, nn.Linear):
    """An ``nn.Linear`` with transforms."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.effective_weight(), self.bias)


class TransformedConv1D(_Transformed, Conv1D):  # type: ignore[misc]
    """transformers' ``Conv1D`` (GPT-2) with transforms; its weight is ``[in, out]``."""

    def forward(self, x: Tensor) -> Tensor:
        bias: Tensor | None = self.bias  # type: ignore[assignment]
        return functional.linear(x, self.effective_weight().t(), bias)


_CLASSES: dict[type[nn.Module], type[_Transformed]] = {nn.Linear: TransformedLinear, Conv1D: TransformedConv1D}


def transform_weight(layer: nn.Module, name: str, transform: nn.Module) -> None:
    """Have a layer compute with ``transform(weight)``.

    Args:
        layer: An ``nn.Linear`` or ``Conv1D``; no subclass with a forward of its own.
        name: Of the transform, which the layer holds as a module from now on.
        transform: From the weight to one of the same shape.

    Raises:
        TypeError: Another class of layer.
    """
    if not isinstance(layer, _Transformed):
        if type(layer) not in _CLASSES:
            raise TypeError(f"a {type(layer).__name__} cannot have transforms, only {[c.__name__ for c in _CLASSES]}")
        layer.__class__ = _CLASSES[type(layer)]
        layer.add_module(_NAME, nn.ModuleDict())
    _transforms(layer)[name] = transform


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
    found = _transforms(layer)
    for name in [n for n in found if not names or n in names]:
        weight: Tensor = layer.weight  # type: ignore[assignment]
        weight.data = found[name](weight).detach().clone()
        del found[name]
    if not found:
        delattr(layer, _NAME)
        own = next(base for base, cls in _CLASSES.items() if type(layer) is cls)
        layer.__class__ = own  # type: ignore[assignment]


def _transforms(layer: Any) -> nn.ModuleDict:
    found: nn.ModuleDict = getattr(layer, _NAME)
    return found
