"""From a checkpoint and calibration data to a quantized checkpoint: layers solved in step, kept as they are done."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from leptonsdk.calibration import Budget, Inputs, calibration_inputs, one_row
from leptonsdk.checkpoint import Checkpoint
from leptonsdk.errors import UsageError
from leptonsdk.hooks import StepContext
from leptonsdk.quantization import QuantizedTensor, Scheme, layers_to_quantize, round_to_nearest, weight_of
from leptonsdk_gptq.calibrate_kept import Kept, fingerprint
from leptonsdk_gptq.calibrate_statistics import Statistics
from leptonsdk_gptq.calibrate_streams import Group, Lockstep, Stream, arrivals, find_groups
from leptonsdk_gptq.config import GPTQConfig
from leptonsdk_gptq.memory import trim
from leptonsdk_gptq.solve import solve
from leptonsdk_gptq.tune import tune_scales

_TUNING_POSITIONS = 512


def compress(checkpoint: Checkpoint, config: GPTQConfig, context: StepContext) -> Checkpoint:
    """See `leptonsdk_gptq.GPTQ`. The given checkpoint's model runs the calibration; it is left as it was."""
    model, scheme = checkpoint.model, config.resolve()
    batches = calibration_inputs(model, context, config.batch_size)
    layers: dict[str, nn.Module] = {
        layer.name: layer.module
        for layer in layers_to_quantize(model, scheme, config.targets, config.ignore, checkpoint.quantized)
    }
    context.progress(0, len(layers), "reading calibration data")
    first = next(batches, None)
    if first is None:
        raise UsageError("the calibration data is empty", hint="give some rows")
    kept = Kept(context.folder, fingerprint(config, layers, first))
    groups = find_groups(model, layers, one_row(first))
    found = dict(kept.tensors)
    scale_dtype = checkpoint.scale_dtype
    with torch.no_grad():
        lockstep = Lockstep(model, layers, groups, compute_dtype(config, model))
        with lockstep.opened(lambda name: found[name].dequantize()):
            positions, rows = _start(lockstep, first, batches, config)
            _solve_all(lockstep, found, kept, scheme, scale_dtype, config, context)
        for name in layers.keys() - found.keys():  # never called in calibration: an expert, a head for another task
            found[name] = round_to_nearest(weight_of(layers[name]), scheme, scale_dtype=scale_dtype)
    ordered = {name: found[name] for name in layers}
    if config.resolved_epochs:
        ordered = tune_scales(
            model,
            ordered,
            _tuning_inputs(model, context, positions, rows),
            epochs=config.resolved_epochs,
            compute_dtype=compute_dtype(config, model),
            seed=context.seed,
            context=context,
        )
    trim()
    return checkpoint.with_integers(ordered)


def compute_dtype(config: GPTQConfig, model: Any) -> torch.dtype:
    """What the forwards multiply in."""
    if config.compute_dtype != "auto":
        return torch.float32 if config.compute_dtype == "float32" else torch.bfloat16
    if model.device.type == "cpu":
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if model.dtype == torch.float32 else model.dtype


def _start(lockstep: Lockstep, first: Inputs, rest: Iterator[Inputs], config: GPTQConfig) -> tuple[int, int]:
    """Run batches up to their first layer until there are enough positions. Returns positions and rows."""
    budget, rows = Budget(config.resolved_tokens), 0
    batch: Inputs | None = first
    while batch is not None:
        if config.resolved_correction:
            lockstep.start(batch, quantized=False)
        stream = lockstep.start(batch, quantized=True)
        budget.add(batch, _positions(stream))
        rows += _row_count(batch)
        batch = None if budget.met else next(rest, None)
    return budget.seen, rows


def _row_count(inputs: Inputs) -> int:
    return next(len(value) for value in inputs.values() if isinstance(value, Tensor))


def _tuning_inputs(model: Any, context: StepContext, positions: int, rows: int) -> list[Inputs]:
    """The same rows again, in smaller batches: tuning wants steps, and holds every activation of a batch."""
    size = max(1, _TUNING_POSITIONS * rows // max(positions, 1))
    found: list[Inputs] = []
    batches = calibration_inputs(model, context, size)
    while rows > 0 and (batch := next(batches, None)) is not None:
        found.append(batch)
        rows -= _row_count(batch)
    return found


def _positions(stream: Stream) -> int:
    return sum(len(arrived.x) for arrived in arrivals([stream]))


def _solve_all(
    lockstep: Lockstep,
    found: dict[str, QuantizedTensor],
    kept: Kept,
    scheme: Scheme,
    scale_dtype: torch.dtype,
    config: GPTQConfig,
    context: StepContext,
) -> None:
    total = len(lockstep.groups)
    while (group := lockstep.next_group()) is not None:
        context.progress(group.position, total, group.names[0])
        if not all(name in found for name in group.names):
            tensors = _solve(lockstep, group, scheme, scale_dtype, config)
            found.update(tensors)
            kept.add(group.position, tensors)
            trim()
        lockstep.release(group)
    context.progress(total, total, "solved")


def _solve(
    lockstep: Lockstep, group: Group, scheme: Scheme, scale_dtype: torch.dtype, config: GPTQConfig
) -> dict[str, QuantizedTensor]:
    """The integers of layers that read one input: their rows are solved together."""
    weights = {name: weight_of(lockstep.layers[name]) for name in group.names}
    joint = torch.cat([weight.float() for weight in weights.values()])
    statistics = Statistics(joint.shape[1], joint.device, lockstep.compute_dtype or torch.float32)
    for arrived in arrivals(lockstep.waiting(group)):
        statistics.add(arrived.x, arrived.source)
    hessian, drift = statistics.hessian(), statistics.drift()
    parts = [joint] if scheme.strategy != "tensor" else [weight.float() for weight in weights.values()]
    solutions = []
    for part in parts:
        try:
            solution = solve(
                part,
                hessian,
                scheme,
                drift=drift,
                correction=config.resolved_correction,
                damping=config.damping,
                activation_order=config.actorder is not None,
                scale_dtype=scale_dtype,
            )
        except UsageError as error:
            raise UsageError(error.message, where=f"layer '{group.names[0]}'", hint=error.hint) from error
        solutions.append(solution.tensor)
    if scheme.strategy == "tensor":
        return dict(zip(weights, solutions, strict=True))
    return dict(zip(weights, _rows(solutions[0], [len(weight) for weight in weights.values()]), strict=True))


def _rows(tensor: QuantizedTensor, counts: list[int]) -> Iterator[QuantizedTensor]:
    """A quantized weight cut into ones of so many rows each."""
    start = 0
    for count in counts:
        part = slice(start, start := start + count)
        zeros = None if tensor.zero_point is None else tensor.zero_point[part].clone()
        yield QuantizedTensor(tensor.integers[part].clone(), tensor.scale[part].clone(), zeros, tensor.scheme)
