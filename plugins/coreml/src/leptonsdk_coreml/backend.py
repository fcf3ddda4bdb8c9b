"""The backend class: light to import, its work stands in other modules."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from leptonsdk.hooks import Backend, Runner, StepContext, WeightProfile
from leptonsdk_coreml.config import PRECISIONS, CoreMLConfig

if TYPE_CHECKING:
    from leptonsdk.artifact import Artifact
    from leptonsdk.checkpoint import Checkpoint


class CoreMLBackend(Backend[CoreMLConfig]):
    """ML programs for Core ML, made on any system; predictions run in Core ML on macOS and by reference elsewhere."""

    name: ClassVar[str] = "coreml"
    config_class = CoreMLConfig
    precisions: ClassVar[tuple[str, ...]] = PRECISIONS
    runtime_modules: ClassVar[tuple[str, ...]] = ("coremltools",)

    def version(self) -> str:
        return importlib.metadata.version("coremltools")

    def export(self, checkpoint: Checkpoint, folder: Path, context: StepContext) -> Artifact:
        from leptonsdk_coreml.export import export_checkpoint

        return export_checkpoint(checkpoint, folder, self.config, context)

    @classmethod
    def load(cls, artifact: Artifact, *, threads: int | None = None) -> Runner:
        from leptonsdk_coreml.runner import load_runner

        return load_runner(artifact, threads)

    @classmethod
    def weights(cls, artifact: Artifact) -> WeightProfile | None:
        from leptonsdk_coreml.runner_weights import weight_profile

        return weight_profile(artifact.folder / artifact.entry)
