"""Export, from checkpoint to folder: trace, quantize, lower, check."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from leptonsdk.artifact import Artifact
from leptonsdk.errors import ExportError, UsageError
from leptonsdk.exporting import (
    GENERATIVE_TASKS,
    Inputs,
    check_parity,
    complete_inputs,
    measure_parity,
    model_inputs,
    sample_batches,
    tracing_inputs,
    write_companions,
)
from leptonsdk.hooks import StepContext
from leptonsdk_executorch.config import ExecuTorchConfig
from leptonsdk_executorch.export_torch import export_program
from leptonsdk_executorch.runner import load_runner

if TYPE_CHECKING:
    from leptonsdk.checkpoint import Checkpoint

ENTRY = "model.pte"
_ROWS, _LENGTH = 8, 512
_PARITY_BATCHES = 4
_TRACED_LENGTH = 8  # no longer: programs are traced small and planned for the limits
_STEPS = 2


def export_checkpoint(checkpoint: Checkpoint, folder: Path, config: ExecuTorchConfig, context: StepContext) -> Artifact:
    """Write the artifact into ``folder``.

    Raises:
        ExportError: The model cannot be exported, or the exported one disagrees with it.
        UsageError: Calibration data is needed and not given.
    """
    model, precision = checkpoint.model, config.resolved_precision
    if getattr(model.config, "is_encoder_decoder", False) and model.can_generate():
        raise ExportError(
            f"{type(model).__name__} is an encoder-decoder, which this backend does not export",
            hint="backends onnxruntime and openvino do",
        )
    if precision == "int8-static":
        context.calibration(1)  # fails now rather than after the trace
    decoder = checkpoint.task in GENERATIVE_TASKS
    rows = config.max_batch_size or (1 if decoder else _ROWS)
    length = config.max_length or min(getattr(model.config, "max_position_embeddings", None) or _LENGTH, _LENGTH)
    context.progress(0, _STEPS, "tracing and lowering")
    samples = [_cut(batch, rows, length) for batch in sample_batches(model, context, rows, _PARITY_BATCHES)]
    inputs = _cut(tracing_inputs(samples[0], pad_left=decoder), 2, _TRACED_LENGTH)
    if rows == 1:
        inputs = {name: value[1:] for name, value in inputs.items()}  # the padded one
    limits = {name: _limits(value, rows, length) for name, value in inputs.items()}
    calibration = _calibration(model, set(inputs), config, context, rows, length) if precision == "int8-static" else ()
    outputs = export_program(model, inputs, limits, precision, calibration, folder)
    write_companions(checkpoint, folder)
    details: dict[str, Any] = {
        "inputs": [_port(name, value, limits[name]) for name, value in inputs.items()],
        "outputs": outputs,
    }
    context.progress(1, _STEPS, "comparing with the source model")
    artifact = Artifact(folder, "executorch", precision, checkpoint.task, ENTRY, (ENTRY,), details)
    parity = measure_parity(model, load_runner(artifact, context.threads), samples)
    details["parity"] = check_parity(parity, precision == "fp32", config.tolerance, f"executorch {precision}, {ENTRY}")
    context.progress(_STEPS, _STEPS, "exported")
    return artifact


def _varies(value: torch.Tensor) -> bool:
    """Whether an input has a length beside its batch: two-dimensional integers do (ids, masks), pixels and features do not."""
    return value.dim() == 2 and not value.is_floating_point()


def _cut(batch: Inputs, rows: int, length: int) -> Inputs:
    return {name: value[:rows, :length] if _varies(value) else value[:rows] for name, value in batch.items()}


def _limits(value: torch.Tensor, rows: int, length: int) -> dict[int, int]:
    found = {0: rows} if rows > 1 else {}
    return {**found, 1: length} if _varies(value) else found


def _port(name: str, value: torch.Tensor, limits: Mapping[int, int]) -> dict[str, Any]:
    shape: list[Any] = [[1, limits[axis]] if axis in limits else size for axis, size in enumerate(value.shape)]
    return {"name": name, "dtype": str(value.dtype).removeprefix("torch."), "shape": shape}


def _calibration(
    model: Any, names: set[str], config: ExecuTorchConfig, context: StepContext, rows: int, length: int
) -> Iterator[Inputs]:
    """Batches of calibration data as the program takes them.

    Raises:
        UsageError: There are no rows.
    """
    batches = -(-config.calibration_samples // rows)
    count = 0
    for batch in itertools.islice(context.calibration(rows), batches):
        count += 1
        yield _cut(complete_inputs(model_inputs(model, batch), names), rows, length)
    if not count:
        raise UsageError("the calibration data holds no example", hint="check `data.calibration`")
