"""Running an artifact in ONNX Runtime: torch tensors in, an object with the source model's output names out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

from leptonsdk.artifact import Artifact
from leptonsdk.exporting import Outputs, complete_inputs
from leptonsdk.hooks import Runner

_PROVIDERS = ("CPUExecutionProvider",)
_DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(double)": torch.float64,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
    "tensor(bool)": torch.bool,
}


def open_session(path: str, threads: int | None) -> ort.InferenceSession:
    """A session with a pool of that many threads (None: ONNX Runtime's choice)."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=list(_PROVIDERS))


class OnnxRunner:
    """Runs a graph that is called once per answer."""

    def __init__(self, session: ort.InferenceSession, precision: str) -> None:
        self.session = session
        self.runtime = f"onnxruntime {ort.__version__} ({session.get_providers()[0]}, {precision})"
        self.dtypes = {value.name: _DTYPES[value.type] for value in session.get_inputs()}
        self.output_names = [value.name for value in session.get_outputs()]
        self.input_names = frozenset(self.dtypes)

    def __call__(self, **inputs: torch.Tensor) -> Any:
        """The outputs as torch tensors. Inputs that the graph does not read are dropped."""
        results = self.session.run(self.output_names, self.full_feed(inputs))
        return Outputs(zip(self.output_names, map(torch.from_numpy, results), strict=True))

    def full_feed(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Everything that the graph reads: the given inputs, and what can be filled in."""
        return self.feed(complete_inputs(inputs, self.input_names))

    def feed(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """The inputs that the graph reads, as arrays of the types that it reads."""
        return {
            name: np.ascontiguousarray(value.detach().to("cpu", self.dtypes[name]).numpy())
            for name, value in inputs.items()
            if name in self.dtypes and value is not None
        }


def load_runner(artifact: Artifact, threads: int | None) -> Runner:
    """The runner that fits an artifact's graph, or its two."""
    path = artifact.folder / artifact.entry
    if (settings := artifact.details.get("seq2seq")) is not None:
        from leptonsdk_onnxruntime.runner_seq2seq import Seq2SeqRunner

        graphs = [f for f in artifact.files if f.endswith(".onnx")]
        encoder, decoder = (
            OnnxRunner(open_session(str(artifact.folder / f), threads), artifact.precision) for f in graphs
        )
        return Seq2SeqRunner(encoder, decoder, settings)
    return open_runner(path, threads, artifact.precision, artifact.details.get("pad_token_id"))


def open_runner(path: Path, threads: int | None, precision: str, pad_token_id: int | None = None) -> OnnxRunner:
    """The runner that fits a graph: one with a cache is a decoder's."""
    from leptonsdk_onnxruntime.decoder import CACHE_PREFIX, DecoderRunner

    session = open_session(str(path), threads)
    if any(value.name.startswith(CACHE_PREFIX) for value in session.get_inputs()):
        return DecoderRunner(session, precision, pad_token_id)
    return OnnxRunner(session, precision)
