"""Fake quantizers: they round as integers would, in floats, and let gradients through.

The gradient of rounding is taken as one (straight-through). With ``x̂ = clamp(round(x / s)) s`` written so, the gradient of the
scale comes out as in "Learned Step Size Quantization" (arXiv 1902.08153): ``round(x / s) - x / s`` inside the range, and the
bound outside it. Scales are learned in their logarithms, so that they stay above 0 and a learning rate means a share of them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from leptonsdk.errors import UsageError
from leptonsdk.quantization import QuantizedTensor, Scheme, search_scales
from leptonsdk.quantization.activations import HIGHEST, LOWEST, InputScale
from leptonsdk.training import whole

_MOMENTUM = 0.95
_SMALLEST = 1e-8


class _Round(torch.autograd.Function):
    """To the nearest integer, with the gradient of the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def _round(x: Tensor) -> Tensor:
    rounded: Tensor = _Round.apply(x)  # type: ignore[no-untyped-call]
    return rounded


def _damped(parameter: Tensor, elements: int, levels: int) -> Tensor:
    """The parameter, with a gradient scaled by ``1 / sqrt(elements * levels)`` (LSQ, section 2.2)."""
    factor = 1 / math.sqrt(elements * max(levels, 1))
    return parameter.detach() + (parameter - parameter.detach()) * factor  # the very number


class WeightQuantizer(nn.Module):
    """Rounds a weight ``[out, in]`` to the integers of a scheme.

    Args:
        weight: To find the first scales for.
        scheme: Its bits, and what shares a scale.
        learned: Scales are parameters; else they follow from the range of the weight, at every step.
        transposed: The weight is stored ``[in, out]`` (Conv1D).
        start: Integers to go on from: their scales and zero points.
    """

    def __init__(
        self,
        weight: Tensor,
        scheme: Scheme,
        *,
        learned: bool,
        transposed: bool,
        start: QuantizedTensor | None = None,
    ) -> None:
        super().__init__()
        self.scheme, self._transposed = scheme, transposed
        self.active = False
        self.learned = learned or start is not None
        if self.learned:
            if start is None:
                scale, zero_point = search_scales(self._rows(weight).float(), scheme, negative_scales=False)
            else:
                scale, zero_point = start.scale.float(), start.zero_point
            self.log_scale = nn.Parameter(scale.abs().log().to(weight.device))
            self.register_buffer("sign", scale.sign().to(weight.device))
            if zero_point is not None:
                self.register_buffer("zero_point", zero_point.float().to(weight.device))

    sign: Tensor

    def forward(self, weight: Tensor) -> Tensor:
        if not self.active:
            return weight
        rows = self._rows(weight).float()
        scale, zero_point = self._scale(rows)
        if self.learned:
            elements = rows.numel() // scale.numel()
            log_scale = _damped(self.log_scale, elements, self.scheme.maximum)
            pieces = rows.reshape(*scale.shape, -1)
            step, zero = (self.sign * log_scale.exp()).unsqueeze(-1), zero_point.unsqueeze(-1)
            integers = _round((pieces / step).clamp(self.scheme.minimum - zero, self.scheme.maximum - zero))
            rounded = integers * step
        else:
            pieces = rows.reshape(scale.numel(), -1)
            rounded = torch.fake_quantize_per_channel_affine(
                pieces, scale.flatten(), zero_point.flatten().int(), 0, self.scheme.minimum, self.scheme.maximum
            )
        rounded = rounded.reshape(rows.shape).to(weight.dtype)
        return rounded.t() if self._transposed else rounded

    def select(self, axis: int, indices: Tensor) -> None:
        """Go along when outputs (axis 0) or inputs (1) of the layer are removed."""
        if not self.learned or self.scheme.strategy == "tensor":
            return
        for name in ("log_scale", "sign", "zero_point"):
            found = getattr(self, name, None)
            if found is None:
                continue
            kept = found.detach()
            if axis == 0:
                kept = kept.index_select(0, indices.to(kept.device))
            elif self.scheme.group_size is not None:
                if not self.scheme.fits(len(indices)):
                    raise UsageError(
                        f"groups of {self.scheme.group_size} do not divide the {len(indices)} inputs that are left",
                        where="qat",
                        hint="prune in multiples of the group (round_to), or quantize by channel",
                    )
                # Groups are made anew of what is left; each scale is the (geometric) mean of those that its inputs had.
                groups = kept.index_select(1, indices.to(kept.device) // self.scheme.group_size)
                kept = groups.reshape(len(kept), -1, self.scheme.group_size).mean(-1)
                kept = {"zero_point": kept.round(), "sign": torch.where(kept < 0, -1.0, 1.0)}.get(name, kept)
            setattr(self, name, nn.Parameter(kept) if isinstance(found, nn.Parameter) else kept)

    def quantize(self, weight: Tensor) -> QuantizedTensor:
        """The integers that it computes with."""
        with torch.no_grad():
            rows = self._rows(weight).float()
            scale, zero_point = self._scale(rows)
            pieces = (rows.reshape(*scale.shape, -1) / scale.unsqueeze(-1)).round() + zero_point.unsqueeze(-1)
            integers = pieces.clamp(self.scheme.minimum, self.scheme.maximum).reshape(rows.shape)
            zeros = None if self.scheme.symmetric else zero_point.to(torch.int8)
            return QuantizedTensor(integers.to(torch.int8), scale.to(weight.dtype), zeros, self.scheme)

    def _rows(self, weight: Tensor) -> Tensor:
        return weight.t() if self._transposed else weight

    def _scale(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Scales and zero points ``[out, groups]`` for a weight ``[out, in]``."""
        if self.learned:
            scale = self.sign * self.log_scale.exp()
            zero_point: Tensor | None = getattr(self, "zero_point", None)
            return scale, torch.zeros_like(scale) if zero_point is None else zero_point
        shape = self.scheme.scale_shape(rows.shape)
        pieces = rows.detach().reshape(*shape, -1)
        if self.scheme.symmetric:
            scale = (pieces.abs().amax(-1) / self.scheme.maximum).clamp(min=_SMALLEST)
            return scale, torch.zeros_like(scale)
        low, high = pieces.amin(-1).clamp(max=0), pieces.amax(-1).clamp(min=0)
        scale = ((high - low) / (self.scheme.maximum - self.scheme.minimum)).clamp(min=_SMALLEST)
        return scale, (self.scheme.minimum - low / scale).round()


class InputQuantizer(nn.Module):
    """Rounds what one or more layers read to 8-bit integers with one scale and zero point.

    It observes the range of its input, a moving average over the steps; ``learned``, the two ends of it are learned from there on
    (as step and offset are in LSQ+, arXiv 2004.09576).

    Attributes:
        active: It rounds, once it has seen an input.
        observing: It takes the range of what comes.
        ready: It has seen something.
    """

    def __init__(self, *, learned: bool, device: torch.device) -> None:
        super().__init__()
        self.learned, self.active, self.observing, self.ready = learned, False, True, False
        for name in ("low", "high"):
            self.register_buffer(name, torch.zeros((), device=device))
            self.register_buffer(f"seen_{name}", torch.zeros((), device=device), persistent=False)
            if learned:
                setattr(self, f"log_{name}", nn.Parameter(torch.zeros(1, device=device)))  # FSDP2 takes no scalars
        self.register_buffer("steps", torch.zeros((), dtype=torch.long, device=device))

    low: Tensor
    high: Tensor
    seen_low: Tensor
    seen_high: Tensor
    steps: Tensor
    log_low: Tensor
    log_high: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.observing:
            with torch.no_grad():
                low, high = torch.aminmax(x.detach())
                self.seen_low.copy_(torch.minimum(self.seen_low, low.float()))
                self.seen_high.copy_(torch.maximum(self.seen_high, high.float()))
        if not self.active or not self.ready:
            return x
        low, high = self._range(x.numel())
        scale = ((high - low) / (HIGHEST - LOWEST)).clamp(min=_SMALLEST)
        zero_point = _round(LOWEST - low / scale)
        if self.learned:
            integers = _round((x.float() / scale).clamp(LOWEST - zero_point, HIGHEST - zero_point))
            return (integers * scale).to(x.dtype)
        rounded = torch.fake_quantize_per_tensor_affine(
            x.float(), scale.detach(), zero_point.detach().int(), LOWEST, HIGHEST
        )
        return rounded.to(x.dtype)

    def step(self) -> None:
        """Take what this step's batches showed into the average."""
        seen = self.seen_high > self.seen_low
        for name in ("low", "high"):
            average, new = getattr(self, name), getattr(self, f"seen_{name}")
            moved = torch.where(self.steps == 0, new, average + (1 - _MOMENTUM) * (new - average))
            average.copy_(torch.where(seen, moved, average))
            new.zero_()
        self.steps += seen
        self.ready = bool(self.steps)

    def input_scale(self) -> InputScale | None:
        """How the input is quantized; None where no input ever came."""
        if not bool(self.steps):
            return None
        with torch.no_grad():
            low, high = self._range(1)
            scale = float(((high - low) / (HIGHEST - LOWEST)).clamp(min=_SMALLEST))
            return InputScale(scale, round(LOWEST - float(low) / scale))

    def _range(self, elements: int) -> tuple[Tensor, Tensor]:
        if not self.learned:
            return self.low, self.high
        # Whole, for a block that reads what an earlier one quantizes: that one is sharded again by then.
        ends = (_damped(whole(end), elements, HIGHEST).squeeze(0).exp() for end in (self.log_low, self.log_high))
        return self.low * next(ends), self.high * next(ends)
