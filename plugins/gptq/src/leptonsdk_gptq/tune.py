"""The second stage: scales tuned end to end, so that the quantized model's outputs come closer to the source's.

GPTQ fits each layer by itself. Here all scales move together, the integers fixed, along the gradient of the divergence between
the source's and the quantized model's outputs on the calibration inputs (the end-to-end phase of EfficientQAT, arXiv 2407.11062,
with the source model as the teacher instead of the text). Scales are few, one in `group_size` weights, so that some
thousand positions tell them; a part of the inputs is held out, and scales that do not do better on it are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional

from leptonsdk.calibration import Inputs
from leptonsdk.errors import UsageError
from leptonsdk.hooks import StepContext
from leptonsdk.quantization import QuantizedTensor
from leptonsdk_gptq.calibrate_streams import bias_of

_RATE = 5e-4  # of a scale's own size, in Adam's first steps
_HELD_OUT = 8  # one batch in so many


def tune_scales(
    model: Any,
    tensors: Mapping[str, QuantizedTensor],
    inputs: Sequence[Inputs],
    *,
    epochs: int,
    compute_dtype: torch.dtype,
    seed: int,
    context: StepContext,
) -> dict[str, QuantizedTensor]:
    """Tensors with the same integers and better scales.

    Args:
        model: The source model, which is left as it was.
        tensors: By layer name.
        inputs: Batches to tune on; at least two, the last ones are held out.
        epochs: Passes over them.
        compute_dtype: Of the layers' products.
        seed: Of the batches' order.
        context: For progress.

    Raises:
        UsageError: There are fewer than two batches.
    """
    if len(inputs) < 2:
        raise UsageError(
            "tuning needs two batches of calibration data or more", hint="give more rows, or preset default"
        )
    held = max(1, len(inputs) // _HELD_OUT)
    training, check = list(inputs[:-held]), list(inputs[-held:])
    steps = epochs * len(training)
    tuned = _Tuned(model, tensors, compute_dtype)
    best, start = tuned.snapshot(), tuned.loss(check)
    lowest = start
    optimizer = torch.optim.Adam(tuned.parameters(), lr=_RATE, betas=(0.9, 0.95))
    generator = torch.Generator().manual_seed(seed)
    done = 0
    for _ in range(epochs):
        for index in torch.randperm(len(training), generator=generator).tolist():
            context.progress(done, steps, f"tuning scales, held-out divergence {lowest / max(start, 1e-12):.0%}")
            for group in optimizer.param_groups:
                group["lr"] = _RATE * _schedule(done / steps)
            optimizer.zero_grad(set_to_none=True)
            with torch.enable_grad():
                tuned.divergence(training[index]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            done += 1
        now = tuned.loss(check)
        if now < lowest:
            best, lowest = tuned.snapshot(), now
    context.progress(steps, steps, f"tuned, held-out divergence {lowest / max(start, 1e-12):.0%}")
    return best


def _schedule(part: float) -> float:
    """A short warm-up, then half a cosine down to a twentieth."""
    return min(1.0, part / 0.05 + 0.05) * (0.525 + 0.475 * math.cos(math.pi * part))


class _Tuned:
    """The source model computing with quantized weights whose scales can be trained."""

    def __init__(self, model: Any, tensors: Mapping[str, QuantizedTensor], compute_dtype: torch.dtype) -> None:
        self._model, self._tensors, self._dtype = model, tensors, compute_dtype
        self._modules = dict(model.named_modules())
        # A scale's factor, 1 at first: one learning rate then suits all.
        self._factors = {
            name: nn.Parameter(torch.ones_like(tensor.scale, dtype=torch.float32)) for name, tensor in tensors.items()
        }

    def parameters(self) -> list[nn.Parameter]:
        return list(self._factors.values())

    def snapshot(self) -> dict[str, QuantizedTensor]:
        return {
            name: replace(tensor, scale=self._scale(name).detach().to(tensor.scale.dtype))
            for name, tensor in self._tensors.items()
        }

    def _scale(self, name: str) -> Tensor:
        return self._tensors[name].scale.float() * self._factors[name]

    def loss(self, batches: Sequence[Inputs]) -> float:
        """Mean divergence over some batches."""
        with torch.no_grad():
            return sum(float(self.divergence(batch)) for batch in batches) / len(batches)

    def divergence(self, inputs: Inputs) -> Tensor:
        """Between the outputs of the source and of the quantized model on a batch."""
        with torch.no_grad():
            expected, distribution = _output(self._model(**inputs))
        with self._quantized():
            found, _ = _output(self._model(**inputs))
        mask = inputs.get("decoder_attention_mask" if "decoder_input_ids" in inputs else "attention_mask")
        keep = (
            mask.bool()
            if isinstance(mask, Tensor) and mask.shape == expected.shape[:2] and expected.dim() == 3
            else None
        )
        if keep is not None:
            expected, found = expected[keep], found[keep]
        return _distance(expected.flatten(0, -2), found.flatten(0, -2), distribution)

    @contextmanager
    def _quantized(self) -> Iterator[None]:
        try:
            for name in self._tensors:
                self._modules[name].forward = self._forward(name)
            yield
        finally:
            for name in self._tensors:
                del self._modules[name].forward

    def _forward(self, name: str) -> Callable[[Tensor], Tensor]:
        tensor, bias = self._tensors[name], bias_of(self._modules[name])

        def forward(x: Tensor) -> Tensor:
            product: Tensor = _Linear.apply(x.to(self._dtype), self._scale(name), tensor)  # type: ignore[no-untyped-call]
            return product.to(x.dtype) if bias is None else product.to(x.dtype) + bias.to(x.dtype)

        return forward


class _Linear(torch.autograd.Function):
    """``x W^T`` with ``W = (integers - zero_point) * scale``: keeps integers for the backward pass instead of floats."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, tensor: QuantizedTensor) -> Tensor:
        ctx.tensor = tensor
        ctx.save_for_backward(x, scale)
        return functional.linear(x, _dequantize(tensor, scale, x.dtype))

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,) = gradients
        tensor: QuantizedTensor = ctx.tensor  # type: ignore[attr-defined]
        x, scale = ctx.saved_tensors  # type: ignore[attr-defined]
        for_x = gradient @ _dequantize(tensor, scale, gradient.dtype)
        for_weight = gradient.flatten(0, -2).t() @ x.flatten(0, -2)
        steps = _steps(tensor)
        for_scale = (for_weight.float().reshape(steps.shape) * steps).sum(-1)
        if len(scale) != len(for_scale):  # one scale for all rows
            for_scale = for_scale.sum(0, keepdim=True)
        return for_x, for_scale, None


def _steps(tensor: QuantizedTensor) -> Tensor:
    """``integers - zero_point`` in groups, float32 ``[out, groups, group_size]``."""
    rows, columns = tensor.shape
    pieces = tensor.integers.float().reshape(rows, -1, tensor.scheme.group_size or columns)
    return pieces if tensor.zero_point is None else pieces - tensor.zero_point.float().unsqueeze(-1)


def _dequantize(tensor: QuantizedTensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    # Multiplied in float32: in bfloat16 the scale's small steps would be lost before they count.
    return (_steps(tensor) * scale.unsqueeze(-1)).reshape(tensor.shape).to(dtype)


def _output(outputs: Any) -> tuple[Tensor, bool]:
    """What the model is for, and whether its last axis is logits of a distribution."""
    logits = getattr(outputs, "logits", None)
    if logits is None:
        return outputs[0], False
    return logits, logits.shape[-1] > 1


def _distance(expected: Tensor, found: Tensor, distribution: bool) -> Tensor:
    """KL(source || quantized) per position of two sets of logits; for other outputs the relative squared difference."""
    if not distribution:
        return functional.mse_loss(found.float(), expected.float()) / expected.float().square().mean().clamp_min(1e-12)
    target = functional.log_softmax(expected.float(), dim=-1)
    return functional.kl_div(
        functional.log_softmax(found.float(), dim=-1), target, reduction="batchmean", log_target=True
    )
