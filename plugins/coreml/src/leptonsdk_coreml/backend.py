"""The backend class: light to import, its work stands in other modules."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from leptonsdk.exporting import quiet
from leptonsdk.hooks import Backend, Runner, StepContext, StoredIntegers, WeightProfile
from leptonsdk_coreml.config import PRECISIONS, CoreMLConfig, no_place

if TYPE_CHECKING:
    from leptonsdk.artifact import Artifact
    from leptonsdk.checkpoint import Checkpoint
    from leptonsdk.quantization import CodebookScheme, Scheme


class CoreMLBackend(Backend[CoreMLConfig]):
    """ML programs for Core ML, made on any system; predictions run in Core ML on macOS and by reference elsewhere."""

    name: ClassVar[str] = "coreml"
    config_class = CoreMLConfig
    precisions: ClassVar[tuple[str, ...]] = PRECISIONS
    runtime_modules: ClassVar[tuple[str, ...]] = ("coremltools",)
    run_alone = """
import coremltools
import numpy as np

def run(entry, inputs):
    model = coremltools.models.MLModel(str(entry))  # Core ML itself, on macOS
    feed = {}
    for port in model.get_spec().description.input:
        value = inputs[port.name] if port.name in inputs else np.zeros_like(inputs["input_ids"])  # token types
        feed[port.name] = value.astype(np.int32 if value.dtype.kind == "i" else np.float32)
    return model.predict(feed)
"""

    def keeps_integers(self) -> bool:
        return self.config.precision in ("auto", "packed")

    def cannot_hold(self, scheme: Scheme | CodebookScheme) -> str | None:
        return no_place(scheme)

    @classmethod
    def untimed(cls) -> str | None:
        return (
            None
            if sys.platform == "darwin"
            else "Core ML runs on macOS; elsewhere its programs are evaluated by reference"
        )

    def version(self) -> str:
        return importlib.metadata.version("coremltools")

    def export(self, checkpoint: Checkpoint, folder: Path, context: StepContext) -> Artifact:
        with quiet():  # coremltools tells on import what it cannot do off macOS
            from leptonsdk_coreml.export import export_checkpoint

        return export_checkpoint(checkpoint, folder, self.config, context)

    @classmethod
    def load(cls, artifact: Artifact, *, threads: int | None = None) -> Runner:
        with quiet():
            from leptonsdk_coreml.runner import load_runner

        return load_runner(artifact, threads)

    @classmethod
    def weights(cls, artifact: Artifact) -> WeightProfile | None:
        with quiet():
            from leptonsdk_coreml.runner_weights import weight_profile

        return weight_profile(artifact.folder / artifact.entry)

    @classmethod
    def integers(cls, artifact: Artifact) -> Mapping[str, StoredIntegers] | None:
        with quiet():
            from leptonsdk_coreml.runner_weights import stored_integers

        return stored_integers(artifact)
