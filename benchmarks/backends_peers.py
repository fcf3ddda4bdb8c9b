"""What peers' default routes make of the same model: ONNX Runtime's quantizers, OpenVINO's conversion and NNCF."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nncf
import onnx
import openvino as ov
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from transformers.exporters import OpenVINOConfig, OpenVINOExporter

import leptonsdk as lepton
from leptonsdk.exporting import write_companions

Batch = dict[str, torch.Tensor]


def onnxruntime_dynamic(source: lepton.Artifact, folder: Path, per_channel: bool) -> lepton.Artifact:
    """ONNX Runtime's ``quantize_dynamic``, as its documentation and optimum have it."""
    graph, quantized = _unquantized(source, folder)
    quantize_dynamic(str(graph), str(quantized), per_channel=per_channel, weight_type=QuantType.QInt8)
    return _onnx_artifact(source, folder, graph)


def onnxruntime_static(source: lepton.Artifact, folder: Path, batches: Sequence[Batch]) -> lepton.Artifact:
    """ONNX Runtime's ``quantize_static`` with its defaults: minimum and maximum, QDQ, per tensor."""

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.left, None)
            return None if batch is None else {name: value.numpy() for name, value in batch.items()}

    graph, quantized = _unquantized(source, folder)
    quantize_static(str(graph), str(quantized), Reader())
    return _onnx_artifact(source, folder, graph)


def _unquantized(source: lepton.Artifact, folder: Path) -> tuple[Path, Path]:
    """A copy of an fp32 export whose graph the quantizers can read, and the path to quantize it to."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source.folder, folder)
    graph = folder / "onnx" / "model.onnx"
    model = onnx.load(str(graph))
    weights = {initializer.name for initializer in model.graph.initializer}
    kept = [info for info in model.graph.value_info if info.name not in weights]
    del model.graph.value_info[:]  # stale entries for weights make the quantizers' shape inference fail
    model.graph.value_info.extend(kept)
    onnx.save(model, str(graph))
    return graph, folder / "onnx" / "model_quantized.onnx"


def _onnx_artifact(source: lepton.Artifact, folder: Path, graph: Path) -> lepton.Artifact:
    graph.unlink()
    entry = "onnx/model_quantized.onnx"
    artifact = lepton.Artifact(folder, "onnxruntime", "int8", source.task, entry, (entry,), source.details)
    artifact.write_manifest()
    return artifact


def openvino_plain(checkpoint: Any, folder: Path, batch: Batch) -> lepton.Artifact:
    """transformers' OpenVINO exporter, saved and compiled with all defaults: bf16 at run time on CPUs that have it."""
    return _openvino_artifact(_graph(checkpoint, batch), checkpoint, folder)


def openvino_nncf(checkpoint: Any, folder: Path, batch: Batch, batches: Sequence[Batch]) -> lepton.Artifact:
    """NNCF's ``quantize`` for transformers with its defaults, compiled with OpenVINO's."""
    graph = _graph(checkpoint, batch)
    names = [port.get_any_name() for port in graph.inputs]
    feeds = nncf.Dataset([{name: rows[name].numpy() for name in names} for rows in batches])
    return _openvino_artifact(nncf.quantize(graph, feeds, model_type=nncf.ModelType.TRANSFORMER), checkpoint, folder)


def _graph(checkpoint: Any, batch: Batch) -> ov.Model:
    with torch.no_grad():
        exported = OpenVINOExporter().export(checkpoint.model, dict(batch), OpenVINOConfig(dynamic=True))
    return exported.components["model"].program


def _openvino_artifact(graph: ov.Model, checkpoint: Any, folder: Path) -> lepton.Artifact:
    files = ("openvino/openvino_model.xml", "openvino/openvino_model.bin")
    (folder / "openvino").mkdir(parents=True)
    ov.save_model(graph, folder / files[0])
    write_companions(checkpoint, folder)
    defaults = {"inference_precision": "auto", "dynamic_quantization": 32}  # OpenVINO's own, on a CPU
    artifact = lepton.Artifact(folder, "openvino", "int8", checkpoint.task, files[0], files, defaults)
    artifact.write_manifest()
    return artifact
