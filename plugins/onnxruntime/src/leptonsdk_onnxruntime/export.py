"""Export, from checkpoint to folder: trace, quantize, save, check."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from leptonsdk.artifact import Artifact
from leptonsdk.checkpoint import hub_task
from leptonsdk.exporting import (
    GENERATIVE_TASKS,
    Inputs,
    Seq2SeqSettings,
    check_parity,
    measure_parity,
    model_inputs,
    pad_token,
    sample_batches,
    tracing_inputs,
    with_decoder_inputs,
    write_companions,
)
from leptonsdk.hooks import StepContext
from leptonsdk.quantization import table_of
from leptonsdk_onnxruntime.config import OnnxRuntimeConfig
from leptonsdk_onnxruntime.decoder import CACHE_PREFIX
from leptonsdk_onnxruntime.export_seq2seq import trace_encoder_decoder
from leptonsdk_onnxruntime.export_torch import Traced, trace, trace_decoder, write_export_manifest
from leptonsdk_onnxruntime.graph import name_weights, pack_siblings, share_transposed, tidy
from leptonsdk_onnxruntime.graph_attention import simplify_attention
from leptonsdk_onnxruntime.graph_positions import narrow
from leptonsdk_onnxruntime.quantize_graph import quantize_graph
from leptonsdk_onnxruntime.quantize_packed import check_holds, lower
from leptonsdk_onnxruntime.quantize_report import described
from leptonsdk_onnxruntime.quantize_trained import check_multiplies, quantize_trained
from leptonsdk_onnxruntime.runner import load_runner

if TYPE_CHECKING:
    from leptonsdk.checkpoint import Checkpoint

_EXTERNAL_FROM = int(1.8 * 2**30)  # protobuf ends at 2 GB
_PARITY_BATCH, _PARITY_BATCHES = 8, 4
_DECODER_BATCH = 2  # logits of one long row fill hundreds of megabytes
_STEPS = 4
_NIBBLE = 4  # bits
_PARTS = ("encoder_model", "decoder_model")


def export_checkpoint(
    checkpoint: Checkpoint, folder: Path, config: OnnxRuntimeConfig, context: StepContext
) -> Artifact:
    """Write the artifact into ``folder``.

    Raises:
        ExportError: The model cannot be traced, or the exported one disagrees with it.
        UsageError: Calibration data is needed and not given, or ONNX Runtime cannot hold the checkpoint's integers.
    """
    import torch

    model, task, precision = checkpoint.model, checkpoint.task, config.resolved_precision(checkpoint)
    if precision == "packed":
        check_holds(checkpoint.quantized)
    trained = precision == "int8-static" and bool(checkpoint.input_scales)
    if trained:
        check_multiplies(checkpoint.quantized, config)
    elif precision == "int8-static":
        context.calibration(config.calibration_batch_size)  # fails now rather than after the trace
    context.progress(0, _STEPS, "tracing")
    seq2seq = bool(model.config.is_encoder_decoder) and model.can_generate()
    decoder = hub_task(task) in GENERATIVE_TASKS and not seq2seq
    size = _DECODER_BATCH if decoder or seq2seq else _PARITY_BATCH
    samples = sample_batches(model, context, size, _PARITY_BATCHES)
    first = tracing_inputs(samples[0], pad_left=decoder)
    with torch.no_grad():
        if seq2seq:
            samples = [b if "decoder_input_ids" in b else with_decoder_inputs(model, b) for b in samples]
            parts = dict(zip(_PARTS, trace_encoder_decoder(model, first, config.opset), strict=True))
        else:
            parts = {"model": (trace_decoder if decoder else trace)(model, first, config.opset)}
    for traced in parts.values():
        name_weights(traced.model)
        share_transposed(traced.model)
        simplify_attention(traced.model, traced.dims)
        narrow(traced.model)
    context.progress(1, _STEPS, "quantizing" if precision != "fp32" else "saving")
    quantization: dict[str, Any] = {}
    graphs = [traced.model for traced in parts.values()]
    if precision == "packed":
        int8 = config.packed_activations == "int8"
        packed = lower(graphs, checkpoint.quantized, int8_activations=int8, table_of=table_of(model))
        quantization = dict(zip(parts, packed, strict=True))
    elif trained:
        done = quantize_trained(graphs, checkpoint.quantized, config, table_of(model))
        quantization = dict(zip(parts, done, strict=True))
    elif precision != "fp32":
        quantization = {n: _quantize(traced, precision, config, model, context) for n, traced in parts.items()}
    context.progress(2, _STEPS, "saving")
    entries = {name: f"onnx/{name}{_suffix(precision, checkpoint)}.onnx" for name in parts}
    files: list[str] = []
    for name, traced in parts.items():
        tidy(traced.model, traced.dims)
        files += _save(traced.model, folder, entries[name])
        if traced.metadata is not None:
            write_export_manifest(traced.metadata, folder / "onnx", Path(entries[name]).name)
    write_companions(checkpoint, folder)
    context.progress(3, _STEPS, "comparing with the source model")
    described = {name: _details(traced.model, quantization.get(name), model) for name, traced in parts.items()}
    details = described["model"] if not seq2seq else {**described, "seq2seq": Seq2SeqSettings.of(model).to_json()}
    entry = next(iter(entries.values()))
    artifact = Artifact(folder, "onnxruntime", precision, task, entry, tuple(files), details)
    parity = measure_parity(model, load_runner(artifact, context.threads), samples)
    where = f"onnxruntime {precision}, {entry}"
    details = {**details, "parity": check_parity(parity, precision == "fp32", config.tolerance, where)}
    context.progress(_STEPS, _STEPS, "exported")
    return dataclasses.replace(artifact, details=details)


def _suffix(precision: str, checkpoint: Checkpoint) -> str:
    """How the Hub's ONNX folders tell files apart, by which transformers.js finds its ``dtype`` (fp32, q8, q4)."""
    if precision == "fp32":
        return ""
    few = precision == "packed" and all(tensor.scheme.num_bits <= _NIBBLE for tensor in checkpoint.quantized.values())
    return "_q4" if few else "_quantized"


def _quantize(
    traced: Traced, precision: str, config: OnnxRuntimeConfig, model: Any, context: StepContext
) -> dict[str, Any]:
    pack_siblings(traced.model, config.ignore)
    names = [str(value.name) for value in traced.model.graph.inputs]
    decoder = any(name.startswith(CACHE_PREFIX) for name in names)
    attends = any(".encoder." in name for name in names)  # no data says what its cache holds: rounded as it comes
    if precision == "int8-dynamic" or attends:
        scales = "block" if decoder and config.activation_scales == "auto" else config.activation_scales
        return described(quantize_graph(traced.model, config, scales=scales), {"method": "dynamic"})
    from leptonsdk_onnxruntime.calibrate import calibrate

    ranges, calibration = calibrate(traced.model, config, lambda: _calibration_batches(model, config, context), context)
    return described(quantize_graph(traced.model, config, ranges), calibration)


def _calibration_batches(model: Any, config: OnnxRuntimeConfig, context: StepContext) -> Iterator[Inputs]:
    left = config.calibration_samples
    for batch in context.calibration(config.calibration_batch_size):
        if left <= 0:
            return
        inputs = {name: value[:left] for name, value in model_inputs(model, batch).items()}
        left -= next(iter(inputs.values())).shape[0]
        yield inputs


def _save(graph: ir.Model, folder: Path, entry: str) -> tuple[str, ...]:
    path = folder / entry
    path.parent.mkdir(parents=True, exist_ok=True)
    size = sum(value.const_value.nbytes for value in graph.graph.initializers.values() if value.const_value is not None)
    if size < _EXTERNAL_FROM:
        ir.save(graph, path)
        return (entry,)
    ir.save(graph, path, external_data=f"{path.name}_data")
    return (entry, f"{entry}_data")


def _details(graph: ir.Model, quantization: dict[str, Any] | None, model: Any) -> dict[str, Any]:
    details: dict[str, Any] = {
        "inputs": [_describe(value) for value in graph.graph.inputs],
        "outputs": [_describe(value) for value in graph.graph.outputs],
        "opset": graph.opset_imports[""],
    }
    if any(str(value.name).startswith(CACHE_PREFIX) for value in graph.graph.inputs):
        details["pad_token_id"] = pad_token(model)
    if quantization is not None:
        details["quantization"] = quantization
    return details


def _describe(value: ir.Value) -> Mapping[str, Any]:
    shape = [dim if isinstance(dim, int) else str(dim) for dim in value.shape] if value.shape is not None else None
    return {"name": value.name, "dtype": str(value.dtype), "shape": shape}
