"""Export, from checkpoint to folder: trace, convert, compress, save, check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from leptonsdk.artifact import Artifact
from leptonsdk.checkpoint import hub_task
from leptonsdk.errors import ExportError, UsageError
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
from leptonsdk.quantization import weight_of
from leptonsdk_coreml.config import CoreMLConfig
from leptonsdk_coreml.export_convert import convert
from leptonsdk_coreml.export_trace import trace
from leptonsdk_coreml.exporter import metadata_of, write_export_manifest
from leptonsdk_coreml.quantize_packed import Packer, check_packable, fits_fp16, packing_pipeline
from leptonsdk_coreml.quantize_weights import compress, describe
from leptonsdk_coreml.runner import load_runner

if TYPE_CHECKING:
    from leptonsdk.checkpoint import Checkpoint

ENTRY = "coreml/model.mlpackage"
_PARITY_BATCH, _PARITY_BATCHES = 8, 4
_DECODER_BATCH = 2  # logits of one long row fill hundreds of megabytes
_STEPS = 4
# Root mean square of the difference, relative to the outputs': of fp16's rounding, and of weights of few bits.
_TOLERANCES = {"fp16": 0.05, "packed": 0.05, "int4": 0.5, "palettized": 0.5}


def export_checkpoint(checkpoint: Checkpoint, folder: Path, config: CoreMLConfig, context: StepContext) -> Artifact:
    """Write the artifact into ``folder``.

    Raises:
        ExportError: The model cannot be converted, or the program disagrees with it.
        UsageError: ``packed`` was asked of a checkpoint without integers, or with some that Core ML cannot hold.
    """
    model, task = checkpoint.model, checkpoint.task
    if model.config.is_encoder_decoder and model.can_generate():
        raise ExportError(
            f"{type(model).__name__} is an encoder-decoder that generates, and only models with one forward are converted",
            where="coreml",
            hint="export it with onnxruntime or openvino",
        )
    precision = resolve_precision(config, checkpoint)
    decoder = hub_task(task) in GENERATIVE_TASKS
    context.progress(0, _STEPS, "tracing")
    samples = sample_batches(model, context, _DECODER_BATCH if decoder else _PARITY_BATCH, _PARITY_BATCHES)
    traced = trace(model, tracing_inputs(samples[0], pad_left=decoder))
    context.progress(1, _STEPS, "converting")
    packer = _packer(checkpoint) if precision == "packed" else None
    fp16 = _computes_in_fp16(precision, config, checkpoint)
    program = convert(traced, config, fp16=fp16, pipeline=None if packer is None else packing_pipeline(packer))
    details: dict[str, Any] = {
        "minimum_deployment_target": config.minimum_deployment_target,
        "compute_precision": "fp16" if fp16 else "fp32",
    }
    if packer is not None:
        details["packed"] = packer.places
    if precision in ("int8", "int4", "palettized"):
        context.progress(2, _STEPS, "compressing weights")
        program, report = compress(program, model, precision, config)
        details["quantization"] = {"weights": describe(precision, config), **report}
    context.progress(2, _STEPS, "saving")
    path = folder / ENTRY
    path.parent.mkdir(parents=True, exist_ok=True)
    with quiet():
        program.save(str(path))
    write_export_manifest(metadata_of(model, traced), {"precision": precision}, path.parent, path.name)
    write_companions(checkpoint, folder)
    context.progress(3, _STEPS, "comparing with the source model")
    files = tuple(sorted(file.relative_to(folder).as_posix() for file in path.rglob("*") if file.is_file()))
    artifact = Artifact(folder, "coreml", precision, task, ENTRY, files, details)
    parity = measure_parity(model, load_runner(artifact, context.threads), samples)
    tolerance = config.tolerance or _TOLERANCES.get(precision)
    details["parity"] = check_parity(parity, precision == "fp32", tolerance, f"coreml {precision}, {ENTRY}")
    context.progress(_STEPS, _STEPS, "exported")
    return artifact


def _packer(checkpoint: Checkpoint) -> Packer:
    modules = dict(checkpoint.model.named_modules())
    return Packer(checkpoint.quantized, {name: weight_of(modules[name]) for name in checkpoint.quantized})


def _computes_in_fp16(precision: str, config: CoreMLConfig, checkpoint: Checkpoint) -> bool:
    if precision == "packed" and config.compute_precision == "auto":
        return fits_fp16(checkpoint.quantized)
    return config.compute_precision == "fp16" if precision == "packed" else precision != "fp32"


def resolve_precision(config: CoreMLConfig, checkpoint: Checkpoint) -> str:
    """The precision that the artifact states."""
    precision = config.precision
    if precision == "auto":
        precision = "packed" if checkpoint.quantized else "fp16"
    if precision == "packed" and not checkpoint.quantized:
        raise UsageError(
            "precision packed needs integers or codebooks, and the checkpoint carries none",
            where="coreml",
            hint="quantize it first (rtn, gptq, qat), or use int8, int4 or palettized",
        )
    if precision == "packed":
        check_packable(checkpoint.quantized)
    return precision
