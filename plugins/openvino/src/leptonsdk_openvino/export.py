"""Export, from checkpoint to folder: trace, quantize, save, check."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openvino as ov
import torch

from leptonsdk.artifact import Artifact
from leptonsdk.checkpoint import hub_task
from leptonsdk.errors import ExportError, UsageError
from leptonsdk.exporting import (
    GENERATIVE_TASKS,
    Inputs,
    Seq2SeqSettings,
    check_parity,
    measure_parity,
    pad_token,
    sample_batches,
    tracing_inputs,
    with_decoder_inputs,
    write_companions,
)
from leptonsdk.hooks import StepContext
from leptonsdk_openvino.config import OpenVINOConfig
from leptonsdk_openvino.export_torch import trace, trace_decoder, trace_encoder_decoder
from leptonsdk_openvino.graph import store_in_half
from leptonsdk_openvino.graph_packed import check_holds, lower
from leptonsdk_openvino.graph_positions import narrow
from leptonsdk_openvino.quantize import quantize
from leptonsdk_openvino.quantize_trained import check_multiplies, quantize_trained
from leptonsdk_openvino.runner import load_runner, runtime_options
from leptonsdk_openvino.runner_shapes import fixed_shapes
from leptonsdk_openvino.silence import converting

if TYPE_CHECKING:
    from leptonsdk.checkpoint import Checkpoint

FOLDER = "openvino"
MODEL, ENCODER, DECODER = "openvino_model", "openvino_encoder_model", "openvino_decoder_model"
_PARITY_BATCH, _PARITY_BATCHES = 8, 4
_DECODER_BATCH = 2  # logits of one long row fill hundreds of megabytes
_STEPS = 4


def export_checkpoint(checkpoint: Checkpoint, folder: Path, config: OpenVINOConfig, context: StepContext) -> Artifact:
    """Write the artifact into ``folder``.

    Raises:
        ExportError: The model cannot be traced, or the exported one disagrees with it.
        UsageError: Calibration data is needed and not given, or OpenVINO cannot hold the checkpoint's integers.
    """
    model, task, precision = checkpoint.model, checkpoint.task, config.resolved_precision(checkpoint)
    trained = precision == "int8" and bool(checkpoint.input_scales)
    if trained:
        check_multiplies(checkpoint.quantized)
    elif precision == "int8":
        context.calibration(config.calibration_batch_size)  # fails now rather than after the trace
    if precision == "packed":
        check_holds(checkpoint.quantized)
    seq2seq = bool(model.config.is_encoder_decoder) and model.can_generate()
    decoder = hub_task(task) in GENERATIVE_TASKS and not seq2seq
    if config.static_shapes and (seq2seq or decoder):
        raise UsageError(
            "a model that generates has no shape of its own: each token makes its inputs longer",
            where="static_shapes",
            hint="leave it out",
        )
    context.progress(0, _STEPS, "tracing")
    samples = sample_batches(model, context, _DECODER_BATCH if decoder else _PARITY_BATCH, _PARITY_BATCHES)
    with torch.no_grad():
        graphs = _trace(model, tracing_inputs(samples[0], pad_left=decoder), seq2seq=seq2seq, decoder=decoder)
    details: dict[str, Any] = {
        "inference_precision": config.inference_precision,
        "dynamic_quantization": config.dynamic_quantization,
    }
    context.progress(1, _STEPS, "quantizing" if precision not in ("fp32", "fp16") else "saving")
    if precision == "packed":
        details["quantization"] = lower(graphs.values(), checkpoint.quantized)
    elif trained:
        details["quantization"] = quantize_trained(graphs.values(), checkpoint.quantized, config)
    elif precision not in ("fp32", "fp16"):
        graphs, details["quantization"] = quantize(graphs, precision, config, model, context)
        for graph in graphs.values() if precision == "int8" else ():
            store_in_half(graph)  # the scales that NNCF found; those of a checkpoint stay as they are
    context.progress(2, _STEPS, "saving")
    if not (decoder or seq2seq):
        narrow(graphs[MODEL])
    files = tuple(file for name, graph in graphs.items() for file in _save(graph, folder, name, precision, details))
    write_companions(checkpoint, folder)
    details |= {name: _ports(graph) for name, graph in graphs.items()}
    if seq2seq:
        details |= {"decoder": f"{FOLDER}/{DECODER}.xml", "generation": Seq2SeqSettings.of(model).to_json()}
        samples = [with_decoder_inputs(model, batch) for batch in samples]
    if config.static_shapes:
        sizes = [shape.model_dump() for shape in config.static_shapes]
        sample = {name: value.shape for name, value in samples[0].items()}
        details["static_shapes"] = [fixed_shapes(details[MODEL]["inputs"], one, sample) for one in sizes]
    if decoder:
        details |= {"stateful": True, "pad_token_id": pad_token(model)}
    context.progress(3, _STEPS, "comparing with the source model")
    artifact = Artifact(folder, "openvino", precision, task, files[0], files, details)
    exact = precision in ("fp32", "packed") and config.inference_precision == "f32" and not config.dynamic_quantization
    parity = measure_parity(model, load_runner(artifact, context.threads), samples)
    details["parity"] = check_parity(parity, exact, config.tolerance, f"openvino {precision}, {files[0]}")
    context.progress(_STEPS, _STEPS, "exported")
    return Artifact(folder, artifact.backend, precision, task, files[0], files, details)


def _trace(model: Any, inputs: Inputs, *, seq2seq: bool, decoder: bool) -> dict[str, ov.Model]:
    if seq2seq:
        return dict(zip((ENCODER, DECODER), trace_encoder_decoder(model, inputs), strict=True))
    return {MODEL: (trace_decoder if decoder else trace)(model, inputs)}


def _save(graph: ov.Model, folder: Path, name: str, precision: str, details: Mapping[str, Any]) -> tuple[str, str]:
    """Write a graph, with a note of the options that it is to be compiled with.

    OpenVINO itself heeds those about cache and dynamic quantization; the inference precision it must be told.
    """
    noted = graph.get_rt_info()
    if "runtime_options" in noted:
        del noted["runtime_options"]  # the exporter's
    for option, value in runtime_options(details).items():
        graph.set_rt_info(str(value), ["runtime_options", option])
    path = folder / FOLDER / f"{name}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    with converting():
        ov.save_model(graph, path, compress_to_fp16=precision == "fp16")
    if not path.with_suffix(".bin").is_file():
        raise ExportError("OpenVINO wrote no weights", where=str(path.name))
    return f"{FOLDER}/{name}.xml", f"{FOLDER}/{name}.bin"


def _ports(graph: ov.Model) -> dict[str, Any]:
    def described(ports: Any) -> list[Mapping[str, Any]]:
        return [
            {
                "name": port.get_any_name(),
                "dtype": port.get_element_type().get_type_name(),
                "shape": [dim.get_length() if dim.is_static else None for dim in port.get_partial_shape()],
            }
            for port in ports
        ]

    return {"inputs": described(graph.inputs), "outputs": described(graph.outputs)}
