"""Weights that are zero when a training begins, and stay zero: what an earlier step has pruned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from leptonsdk.quantization.layers import linear_layers


class Zeros:
    """Where the linear layers of a model have zeros now. Of a sharded model each process knows its own part.

    Nothing is added to the model: as the zeros stay, a checkpoint of the training tells where they are.

    Args:
        model: In training, wrapped or not.
    """

    def __init__(self, model: nn.Module) -> None:
        self._at: list[tuple[nn.Module, Tensor]] = []
        for layer in linear_layers(model).values():
            at = _own_part(_weight(layer)) == 0
            if bool(at.any()):
                self._at.append((layer, at))

    def hold_gradients(self) -> None:
        """Take the zeros' part out of the gradients, so that no optimizer gathers moments of them, nor clips for their sake."""
        for layer, at in self._at:
            gradient: Any = layer.weight.grad
            if gradient is not None:
                _own_part(gradient).masked_fill_(at, 0)

    def restore(self) -> None:
        """Set to zero again what an optimizer has moved all the same."""
        with torch.no_grad():
            for layer, at in self._at:
                _own_part(_weight(layer)).masked_fill_(at, 0)


def _weight(layer: nn.Module) -> Tensor:
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return weight.detach()


def _own_part(tensor: Tensor) -> Tensor:
    """A tensor, or of a sharded one what is here, in the same memory."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part
