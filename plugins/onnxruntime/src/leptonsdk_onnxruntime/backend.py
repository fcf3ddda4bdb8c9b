"""The backend class: light to import, its work stands in other modules."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from leptonsdk.hooks import Backend, Need, Runner, StepContext, StoredIntegers, WeightProfile
from leptonsdk_onnxruntime.config import PRECISIONS, OnnxRuntimeConfig, why_not_int8, why_not_packed

if TYPE_CHECKING:
    from leptonsdk.artifact import Artifact
    from leptonsdk.checkpoint import Checkpoint
    from leptonsdk.quantization import CodebookScheme, Scheme


class OnnxRuntimeBackend(Backend[OnnxRuntimeConfig]):
    """ONNX graphs, run by ONNX Runtime on the CPU."""

    name: ClassVar[str] = "onnxruntime"
    config_class = OnnxRuntimeConfig
    precisions: ClassVar[tuple[str, ...]] = PRECISIONS
    runtime_modules: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    examples = ({}, {"precision": "int8-static"})
    run_alone = """
import onnxruntime

def run(entry, inputs):
    session = onnxruntime.InferenceSession(str(entry), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {value.name: inputs[value.name] for value in session.get_inputs()})))
"""

    def calibration(self) -> Need:
        return "required" if self.config.precision == "int8-static" else "never"

    def keeps_integers(self) -> bool:
        return self.config.precision in ("auto", "packed")

    def cannot_hold(self, scheme: Scheme | CodebookScheme) -> str | None:
        return why_not_packed(scheme)

    def cannot_multiply(self, scheme: Scheme | CodebookScheme) -> str | None:
        return why_not_int8(scheme, self.config.reduce_range) if self.config.precision == "int8-static" else None

    def version(self) -> str:
        return importlib.metadata.version("onnxruntime")

    def export(self, checkpoint: Checkpoint, folder: Path, context: StepContext) -> Artifact:
        from leptonsdk_onnxruntime.export import export_checkpoint

        return export_checkpoint(checkpoint, folder, self.config, context)

    @classmethod
    def load(cls, artifact: Artifact, *, threads: int | None = None) -> Runner:
        from leptonsdk_onnxruntime.runner import load_runner

        return load_runner(artifact, threads)

    @classmethod
    def weights(cls, artifact: Artifact) -> WeightProfile | None:
        from leptonsdk_onnxruntime.graph_weights import weight_profile

        return weight_profile([artifact.folder / name for name in artifact.files if name.endswith(".onnx")])

    @classmethod
    def integers(cls, artifact: Artifact) -> Mapping[str, StoredIntegers] | None:
        from leptonsdk_onnxruntime.graph_weights import stored_integers

        return stored_integers([artifact.folder / name for name in artifact.files if name.endswith(".onnx")])
