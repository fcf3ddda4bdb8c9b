"""Running an artifact in OpenVINO: torch tensors in, an object with the source model's output names out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch

from leptonsdk.artifact import Artifact
from leptonsdk.exporting import Outputs, complete_inputs
from leptonsdk_openvino.runner_shapes import compile_at

_DTYPES = {
    "f32": torch.float32,
    "f16": torch.float16,
    "f64": torch.float64,
    "i64": torch.int64,
    "i32": torch.int32,
    "boolean": torch.bool,
}
BEAM = "beam_idx"
Shapes = tuple[tuple[int, ...], ...]
Compile = Callable[[], ov.CompiledModel]


def runtime_options(details: Mapping[str, Any]) -> dict[str, Any]:
    """OpenVINO's properties for an artifact's precision."""
    options: dict[str, Any] = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": details.get("dynamic_quantization", 0)}
    precision = details.get("inference_precision", "f32")
    if precision != "auto":
        # The cache too: left to itself OpenVINO keeps it in 8 bits.
        options |= {"INFERENCE_PRECISION_HINT": precision, "KV_CACHE_PRECISION": precision}
    return options


def compile_options(threads: int | None, details: Mapping[str, Any]) -> dict[str, Any]:
    """What to compile an artifact's graphs with: a pool of that many threads (None: OpenVINO's choice)."""
    options = {"PERFORMANCE_HINT": "LATENCY", **runtime_options(details)}
    return options if threads is None else {**options, "INFERENCE_NUM_THREADS": threads}


def compile_graph(path: Path, options: Mapping[str, Any]) -> ov.CompiledModel:
    """A graph compiled for all shapes."""
    return ov.Core().compile_model(str(path), "CPU", dict(options))


class OpenVINORunner:
    """Runs a graph that is called once per answer.

    Args:
        compiled: The graph, for all shapes.
        precision: The artifact's.
        static: Compiles the graph for one shape of each input, in the order of the graph's own; done when that shape first comes.
    """

    def __init__(
        self, compiled: ov.CompiledModel, precision: str, static: Mapping[Shapes, Compile] | None = None
    ) -> None:
        self.compiled = compiled
        self.request = compiled.create_infer_request()
        self._static = dict(static or {})
        self._requests: dict[Shapes, ov.InferRequest] = {}
        computes = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        self.runtime = f"openvino {ov.__version__.split('-')[0]} (CPU, {precision}, computes in {computes})"
        self.dtypes = {
            port.get_any_name(): _DTYPES[port.get_element_type().get_type_name()] for port in compiled.inputs
        }
        self.output_names = [port.get_any_name() for port in compiled.outputs]
        self.input_names = frozenset(self.dtypes) - {BEAM}

    def __call__(self, **inputs: torch.Tensor) -> Any:
        """The outputs as torch tensors. Inputs that the graph does not read are dropped."""
        return self.infer(complete_inputs(inputs, self.input_names))

    def infer(self, inputs: Mapping[str, torch.Tensor]) -> Outputs:
        """Run the graph once; state goes on."""
        feed = {name: self._array(name, inputs[name]) for name in self.dtypes if name != BEAM}
        if BEAM in self.dtypes:
            feed[BEAM] = np.arange(next(iter(feed.values())).shape[0], dtype=np.int32)
        results = self._request(feed).infer(feed, share_inputs=True)
        return Outputs((name, torch.from_numpy(results[name])) for name in self.output_names)

    def _request(self, feed: Mapping[str, Any]) -> ov.InferRequest:
        if not self._static:
            return self.request
        shapes = tuple(feed[name].shape for name in self.dtypes)
        if shapes not in self._static:
            return self.request
        if shapes not in self._requests:
            self._requests[shapes] = self._static[shapes]().create_infer_request()
        return self._requests[shapes]

    def _array(self, name: str, value: torch.Tensor) -> Any:
        return np.ascontiguousarray(value.detach().to("cpu", self.dtypes[name]).numpy())


def load_runner(artifact: Artifact, threads: int | None) -> OpenVINORunner:
    """The runner that fits an artifact."""
    from leptonsdk_openvino.decoder import DecoderRunner, Seq2SeqRunner

    details, options = artifact.details, compile_options(threads, artifact.details)
    path = artifact.folder / artifact.entry
    compiled = compile_graph(path, options)
    if "decoder" in details:
        decoder = compile_graph(artifact.folder / details["decoder"], options)
        return Seq2SeqRunner(compiled, decoder, artifact.precision, details["generation"])
    if details.get("stateful"):
        return DecoderRunner(compiled, artifact.precision, details.get("pad_token_id"))
    names = [port.get_any_name() for port in compiled.inputs]
    static = {
        tuple(tuple(shapes[name]) for name in names): partial(compile_at, path, shapes, options)
        for shapes in details.get("static_shapes", ())
    }
    return OpenVINORunner(compiled, artifact.precision, static)
