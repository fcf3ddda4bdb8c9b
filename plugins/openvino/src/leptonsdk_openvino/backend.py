"""The backend class: light to import, its work stands in other modules."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from leptonsdk.hooks import Backend, Need, Runner, StepContext, StoredIntegers, WeightProfile
from leptonsdk_openvino.config import PRECISIONS, OpenVINOConfig, why_not_int8, why_not_packed

if TYPE_CHECKING:
    from leptonsdk.artifact import Artifact
    from leptonsdk.checkpoint import Checkpoint
    from leptonsdk.quantization import CodebookScheme, Scheme


class OpenVINOBackend(Backend[OpenVINOConfig]):
    """OpenVINO IR, run by OpenVINO on the CPU."""

    name: ClassVar[str] = "openvino"
    config_class = OpenVINOConfig
    precisions: ClassVar[tuple[str, ...]] = PRECISIONS
    runtime_modules: ClassVar[tuple[str, ...]] = ("openvino",)
    examples = ({}, {"precision": "int8"})
    run_alone = """
import openvino

def run(entry, inputs):
    model = openvino.Core().compile_model(str(entry), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = model({value.any_name: inputs[value.any_name] for value in model.inputs})
    return {output.any_name: results[output] for output in model.outputs}
"""

    def calibration(self) -> Need:
        return "required" if self.config.precision == "int8" else "never"

    def keeps_integers(self) -> bool:
        return self.config.precision in ("auto", "packed")

    def cannot_hold(self, scheme: Scheme | CodebookScheme) -> str | None:
        return why_not_packed(scheme)

    def cannot_multiply(self, scheme: Scheme | CodebookScheme) -> str | None:
        return why_not_int8(scheme) if self.config.precision == "int8" else None

    def version(self) -> str:
        return f"{importlib.metadata.version('openvino')} nncf {importlib.metadata.version('nncf')}"

    def export(self, checkpoint: Checkpoint, folder: Path, context: StepContext) -> Artifact:
        from leptonsdk_openvino.export import export_checkpoint

        return export_checkpoint(checkpoint, folder, self.config, context)

    @classmethod
    def load(cls, artifact: Artifact, *, threads: int | None = None) -> Runner:
        from leptonsdk_openvino.runner import load_runner

        return load_runner(artifact, threads)

    @classmethod
    def weights(cls, artifact: Artifact) -> WeightProfile | None:
        from leptonsdk_openvino.graph_weights import weight_profile

        return weight_profile([artifact.folder / name for name in artifact.files if name.endswith(".xml")])

    @classmethod
    def integers(cls, artifact: Artifact) -> Mapping[str, StoredIntegers] | None:
        from leptonsdk_openvino.graph_integers import stored_weights

        stored = stored_weights([artifact.folder / name for name in artifact.files if name.endswith(".xml")])
        return {
            name.removesuffix(".weight"): StoredIntegers(one.integers, one.scale, one.zero_point)
            for name, one in stored.items()
        }
