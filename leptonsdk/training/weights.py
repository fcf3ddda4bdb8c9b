"""Layers that compute with a transformed weight, or a transformed input, while they are trained.

The masks and fake quantizers of several compressors may meet at one layer. Each is a module of its own, applied in the order in
which they were added; the layer's own parameters keep their names, so that a checkpoint of the training is a plain model with
some tensors more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

_WEIGHTS, _INPUTS, _READ = "weight_transforms", "input_transforms", "_reads_through"


class _Reaching(torch.autograd.Function):
    """A tensor as it is, in whose graph parameters stand that it gives no gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, *parameters: Tensor) -> Tensor:
        ctx.count = len(parameters)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (gradients[0], *[None] * ctx.count)


def reaching(tensor: Tensor, module: nn.Module) -> Tensor:
    """A tensor with a module's parameters in its graph, though they may have no part in it at the moment.

    DistributedDataParallel waits for every parameter that it does not know to be unused, and will not have one that the
    forward left out get a gradient from elsewhere, such as a penalty. A frozen mask, or a quantizer that does not round yet,
    would leave its parameters out.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not parameters or not torch.is_grad_enabled():
        return tensor
    reached: Tensor = _Reaching.apply(tensor, *parameters)  # type: ignore[no-untyped-call]
    return reached


class _Transformed(nn.Module):
    """What a layer's class is mixed with while it has transforms."""

    def effective_weight(self) -> Tensor:
        """The weight that it computes with, of the shape of its own."""
        weight: Tensor = self.weight  # type: ignore[assignment]
        for transform in _held(self, _WEIGHTS).values():
            weight = reaching(transform(weight), transform)
        return weight

    def effective_input(self, x: Tensor) -> Tensor:
        """What it makes of its input before it computes with it."""
        for transform in vars(self).get(_READ, {}).values():
            x = reaching(transform(x), transform)
        return x


class TransformedLinear(_Transformed, nn.Linear):
    """An ``nn.Linear`` with transforms."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(self.effective_input(x), self.effective_weight(), self.bias)


class TransformedConv1D(_Transformed, Conv1D):  # type: ignore[misc]
    """transformers' ``Conv1D`` (GPT-2) with transforms; its weight is ``[in, out]``."""

    def forward(self, x: Tensor) -> Tensor:
        bias: Tensor | None = self.bias  # type: ignore[assignment]
        return functional.linear(self.effective_input(x), self.effective_weight().t(), bias)


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
    _held(_transformed(layer), _WEIGHTS)[name] = transform


def transform_input(layers: Sequence[nn.Module], name: str, transform: nn.Module) -> None:
    """Have layers that read one and the same tensor compute with ``transform(input)``.

    The first of them holds the transform as a module, the others refer to it, so that a checkpoint has it once.

    Args:
        layers: As `transform_weight` takes them.
        name: Of the transform.
        transform: From the input to one of the same shape.
    """
    _held(_transformed(layers[0]), _INPUTS)[name] = transform
    for layer in layers:
        vars(_transformed(layer)).setdefault(_READ, {})[name] = transform


def effective_weight(layer: nn.Module) -> Tensor:
    """The weight that a layer computes with, transformed or not."""
    if isinstance(layer, _Transformed):
        return layer.effective_weight()
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return weight


def fold(layer: nn.Module, *names: str) -> None:
    """Take transforms away: the weight becomes what the weight's transforms of these names made of it, inputs come as they are.

    Without names all go. A layer that has none left is what it was before.
    """
    if not isinstance(layer, _Transformed):
        return
    for name, transform in _meant(_held(layer, _WEIGHTS), names):
        weight: Tensor = layer.weight  # type: ignore[assignment]
        weight.data = transform(weight).detach().clone()
        del _held(layer, _WEIGHTS)[name]
    for found in (_held(layer, _INPUTS), vars(layer).get(_READ, {})):
        for name, _ in _meant(found, names):
            del found[name]
    if not _held(layer, _WEIGHTS) and not _held(layer, _INPUTS) and not vars(layer).get(_READ):
        delattr(layer, _WEIGHTS)
        delattr(layer, _INPUTS)
        vars(layer).pop(_READ, None)
        own = next(base for base, cls in _CLASSES.items() if type(layer) is cls)
        layer.__class__ = own  # type: ignore[assignment]


def _transformed(layer: nn.Module) -> _Transformed:
    if not isinstance(layer, _Transformed):
        if type(layer) not in _CLASSES:
            raise TypeError(f"a {type(layer).__name__} cannot have transforms, only {[c.__name__ for c in _CLASSES]}")
        layer.__class__ = _CLASSES[type(layer)]
        layer.add_module(_WEIGHTS, nn.ModuleDict())
        layer.add_module(_INPUTS, nn.ModuleDict())
    return layer  # type: ignore[return-value]


def _held(layer: nn.Module, kind: str) -> nn.ModuleDict:
    found: nn.ModuleDict = getattr(layer, kind)
    return found


def _meant(found: Any, names: Sequence[str]) -> list[tuple[str, nn.Module]]:
    return [(name, transform) for name, transform in found.items() if not names or name in names]
