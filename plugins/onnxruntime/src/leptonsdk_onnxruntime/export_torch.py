"""The one place that knows `transformers.exporters`, which calls itself experimental."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from leptonsdk.errors import ExportError
from leptonsdk.exporting import quiet
from leptonsdk_onnxruntime.graph import rename

# Axes that vary, by input; other inputs vary along the batch, and text-like ones (two-dimensional integers) along both.
_AXES: Mapping[str, Mapping[int, str]] = {
    "pixel_values": {0: "batch_size"},
    "input_features": {0: "batch_size"},
    "input_values": {0: "batch_size", 1: "sequence_length"},
    "inputs_embeds": {0: "batch_size", 1: "sequence_length"},
}
_CACHE = re.compile(r"^(input|output)\.cache\.layers\.(\d+)\.(key|value)s$")


@dataclass
class Traced:
    """A graph, the names of its symbolic axes, and what `transformers.exporters` recorded about it.

    Attributes:
        model: The graph.
        dims: Tracing's symbols and the names they get.
        metadata: For ``export.json``; None when the graph's names differ from what it describes.
    """

    model: ir.Model
    dims: dict[str, str]
    metadata: dict[str, Any] | None


def trace(model: Any, inputs: Mapping[str, torch.Tensor], opset: int) -> Traced:
    """Trace a model that is called once per answer (encoders, classifiers, vision models)."""
    component = export_graph(
        model,
        dict(inputs),
        {name: dict.fromkeys(axes_of(name, value), _auto()) for name, value in inputs.items()},
        opset,
    )
    dims: dict[str, str] = {}
    for value in component.program.graph.inputs:
        if value.name in inputs:
            name_axes(value, axes_of(value.name, inputs[value.name]), dims)
    return Traced(component.program, dims, dataclasses.asdict(component.metadata))


def trace_decoder(model: Any, inputs: Mapping[str, torch.Tensor], opset: int) -> Traced:
    """Trace a causal language model as one graph that both reads a prompt (with an empty cache) and goes on from a cache.

    Inputs and outputs are named as on the Hub: ``past_key_values.0.key`` and ``present.0.key``.
    """
    from transformers.exporters.utils import decompose_for_generation

    with quiet():
        decoder, sample = decompose_for_generation(model, dict(inputs), multi_token_decode=True)["decode"]
    axes: dict[str, Any] = {}
    for name, value in sample.items():
        if isinstance(value, torch.Tensor):
            axes[name] = dict.fromkeys(axes_of(name, value), _auto())
        elif hasattr(value, "layers"):
            # A cache flattens to keys and values of each layer, [batch, heads, length, head size].
            axes[name] = [{0: _auto(), 2: _auto()} for _ in range(2 * len(value.layers))]
    component = export_graph(decoder, sample, axes, opset)
    graph = component.program.graph
    dims: dict[str, str] = {}
    for value in (*graph.inputs, *graph.outputs):
        if match := _CACHE.match(value.name):
            prefix = "past_key_values" if match[1] == "input" else "present"
            rename(graph, value, f"{prefix}.{match[2]}.{match[3]}")
    lengths = {
        "input_ids": "sequence_length",
        "position_ids": "sequence_length",
        "attention_mask": "total_sequence_length",
    }
    for value in graph.inputs:
        length, axis = (lengths[value.name], 1) if value.name in lengths else ("past_sequence_length", 2)
        name_axes(value, {0: "batch_size", axis: length}, dims)
    for value in graph.outputs:
        if value.name.startswith("present."):
            name_axes(value, {2: "total_sequence_length"}, dims)
    return Traced(component.program, dims, None)


def write_export_manifest(metadata: Mapping[str, Any], folder: Path, file: str) -> None:
    """Write ``export.json``, so that ``transformers.exporters.ExportedModel.from_pretrained`` opens the folder.

    It insists on a ``.data`` file beside the graph; the weights stand in the graph, so that file is empty.
    """
    manifest = {
        "schema_version": 1,
        "export_format": "onnx",
        "components": {"model": {"file": file, "metadata": dict(metadata)}},
    }
    (folder / "export.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    sidecar = folder / f"{file}.data"
    if not sidecar.exists():
        sidecar.touch()


def export_graph(model: Any, inputs: dict[str, Any], axes: Mapping[str, Any], opset: int) -> Any:
    """The exporter's component for a module: its graph, and what it recorded.

    Raises:
        ExportError: It cannot be traced.
    """
    from transformers.exporters import OnnxConfig, OnnxExporter

    with quiet():
        try:
            exported = OnnxExporter().export(
                model, inputs, OnnxConfig(dynamic=True, dynamic_shapes=dict(axes), opset_version=opset)
            )
        except Exception as error:
            raise ExportError(
                f"{type(model).__name__} cannot be traced to ONNX: {str(error).strip().splitlines()[0][:300]}",
                hint="the cause stands in the traceback; `transformers.exporters` may not support this model yet",
            ) from error
    return exported.components["model"]


def axes_of(name: str, value: torch.Tensor) -> Mapping[int, str]:
    """The axes of an input that vary, and their names."""
    if name in _AXES:
        return _AXES[name]
    both = value.dim() == 2 and not value.is_floating_point()
    return {0: "batch_size", 1: "sequence_length"} if both else {0: "batch_size"}


def _auto() -> Any:
    return torch.export.Dim.AUTO


def name_axes(value: ir.Value, names: Mapping[int, str], dims: dict[str, str]) -> None:
    """Note what tracing's symbols in a value's shape stand for."""
    if value.shape is None:
        return
    for axis, name in names.items():
        if isinstance(value.shape[axis], ir.SymbolicDim):
            dims.setdefault(str(value.shape[axis]), name)
