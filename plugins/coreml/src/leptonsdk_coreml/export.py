"""Export, from checkpoint to folder: trace, convert, compress, save, check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from leptonsdk.artifact import Artifact
from leptonsdk.errors import UsageError
from leptonsdk.exporting import (
    GENERATIVE_TASKS,
    check_parity,
    measure_parity,
    quiet,
    sample_batches,
    tracing_inputs,
    write_companions,
)
from leptonsdk.hooks import StepContext
from leptonsdk_coreml.config import CoreMLConfig
from leptonsdk_coreml.export_convert import convert
from leptonsdk_coreml.export_trace import length_limit, sizes, trace
from leptonsdk_coreml.runner import load_runner

if TYPE_CHECKING:
    from leptonsdk.checkpoint import Checkpoint

ENTRY = "coreml/model.mlpackage"
_PARITY_BATCH, _PARITY_BATCHES = 8, 4
_DECODER_BATCH = 2  # logits of one long row fill hundreds of megabytes
_STEPS = 4


def export_checkpoint(
    checkpoint: Checkpoint, folder: Path, config: CoreMLConfig, context: StepContext
) -> Artifact:
    """Write the artifact into ``folder``.

    Raises:
        ExportError: The model cannot be converted, or the program disagrees with it.
        UsageError: ``packed`` was asked of a checkpoint without integers, or with some that Core ML cannot hold.
    """
    model, task = checkpoint.model, checkpoint.task
    precision = resolve_precision(config, checkpoint)
    decoder = task in GENERATIVE_TASKS
    context.progress(0, _STEPS, "tracing")
    samples = sample_batches(model, context, _DECODER_BATCH if decoder else _PARITY_BATCH, _PARITY_BATCHES)
    first = tracing_inputs(samples[0], pad_left=decoder)
    traced, outputs = trace(model, first)
    context.progress(1, _STEPS, "converting")
    program = convert(
        traced, first, sizes(model, first), outputs, length_limit(model), config, fp16=precision != "fp32"
    )
    context.progress(2, _STEPS, "saving")
    path = folder / ENTRY
    path.parent.mkdir(parents=True, exist_ok=True)
    with quiet():
        program.save(str(path))
    write_companions(checkpoint, folder)
    context.progress(3, _STEPS, "comparing with the source model")
    files = tuple(sorted(file.relative_to(folder).as_posix() for file in path.rglob("*") if file.is_file()))
    details: dict[str, Any] = {"minimum_deployment_target": config.minimum_deployment_target}
    artifact = Artifact(folder, "coreml", precision, task, ENTRY, files, details)
    parity = measure_parity(model, load_runner(artifact, context.threads), samples)
    details["parity"] = check_parity(parity, precision == "fp32", config.tolerance, f"coreml {precision}, {ENTRY}")
    context.progress(_STEPS, _STEPS, "exported")
    return artifact


def resolve_precision(config: CoreMLConfig, checkpoint: Checkpoint) -> str:
    """The precision that the artifact states."""
    if config.precision == "auto":
        return "packed" if checkpoint.quantized else "fp16"
    if config.precision == "packed" and not checkpoint.quantized:
        raise UsageError(
            "precision packed needs integers or codebooks, and the checkpoint carries none",
            where="coreml",
            hint="quantize it first (rtn, gptq, qat), or use int8, int4 or palettized",
        )
    return config.precision
