"""From a checkpoint and calibration data to a quantized checkpoint: layers solved in step, kept as they are done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from leptonsdk.calibration import Group, Inputs, LayerByLayer, calibration_inputs, row_count
from leptonsdk.checkpoint import Checkpoint
from leptonsdk.errors import UsageError
from leptonsdk.hooks import StepContext
from leptonsdk.quantization import QuantizedTensor, Scheme, layers_to_quantize, round_to_nearest, weight_of
from leptonsdk_gptq.calibrate_kept import Kept, fingerprint
from leptonsdk_gptq.calibrate_statistics import Statistics
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
    found: dict[str, QuantizedTensor] = {}
    scale_dtype = checkpoint.scale_dtype
    context.progress(0, len(layers), "reading calibration data")
    with LayerByLayer(
        model,
        layers,
        batches,
        positions=config.resolved_tokens,
        new_weight=lambda name: found[name].dequantize(),
        with_source=config.resolved_correction > 0,
        compute_dtype=compute_dtype(config, model),
    ) as walk:
        kept = Kept(context.folder, fingerprint(config, layers, walk.first))
        found.update(kept.tensors)
        _solve_all(walk, layers, found, kept, scheme, scale_dtype, config, context)
        for name in walk.unreached():
            found[name] = round_to_nearest(weight_of(layers[name]), scheme, scale_dtype=scale_dtype)
    ordered = {name: found[name] for name in layers}
    if config.resolved_epochs:
        ordered = tune_scales(
            model,
            ordered,
            _tuning_inputs(model, context, walk.positions, walk.rows),
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


def _tuning_inputs(model: Any, context: StepContext, positions: int, rows: int) -> list[Inputs]:
    """The same rows again, in smaller batches: tuning wants steps, and holds every activation of a batch."""
    size = max(1, _TUNING_POSITIONS * rows // max(positions, 1))
    found: list[Inputs] = []
    batches = calibration_inputs(model, context, size)
    while rows > 0 and (batch := next(batches, None)) is not None:
        found.append(batch)
        rows -= row_count(batch)
    return found


def _solve_all(
    walk: LayerByLayer,
    layers: Mapping[str, nn.Module],
    found: dict[str, QuantizedTensor],
    kept: Kept,
    scheme: Scheme,
    scale_dtype: torch.dtype,
    config: GPTQConfig,
    context: StepContext,
) -> None:
    total = len(walk.groups)
    for group in walk:
        context.progress(group.position, total, group.names[0])
        if not all(name in found for name in group.names):
            tensors = _solve(walk, layers, group, scheme, scale_dtype, config)
            found.update(tensors)
            kept.add(group.position, tensors)
            trim()
    context.progress(total, total, "solved")


def _solve(
    walk: LayerByLayer,
    layers: Mapping[str, nn.Module],
    group: Group,
    scheme: Scheme,
    scale_dtype: torch.dtype,
    config: GPTQConfig,
) -> dict[str, QuantizedTensor]:
    """The integers of layers that read one input: their rows are solved together."""
    weights = {name: weight_of(layers[name]) for name in group.names}
    joint = torch.cat([weight.float() for weight in weights.values()])
    statistics = Statistics(joint.shape[1], joint.device, walk.compute_dtype or torch.float32)
    for arrived in walk.arrived(group):
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
