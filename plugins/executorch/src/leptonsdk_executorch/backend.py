"""The backend class: light to import, its work stands in other modules."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from leptonsdk.hooks import Backend, Need, Runner, StepContext
from leptonsdk_executorch.config import PRECISIONS, ExecuTorchConfig

if TYPE_CHECKING:
    from leptonsdk.artifact import Artifact
    from leptonsdk.checkpoint import Checkpoint


class ExecuTorchBackend(Backend[ExecuTorchConfig]):
    """ExecuTorch programs for CPUs of phones and others, their heavy parts run by XNNPACK."""

    name: ClassVar[str] = "executorch"
    config_class = ExecuTorchConfig
    precisions: ClassVar[tuple[str, ...]] = PRECISIONS
    runtime_modules: ClassVar[tuple[str, ...]] = ("executorch.runtime",)
    examples = ({}, {"precision": "int8"})
    takes_input_scales: ClassVar[bool] = False
    run_alone = """
import json
import pathlib
import torch
from executorch.runtime import Runtime

def run(entry, inputs):
    about = json.loads((pathlib.Path(entry).parent / "export.json").read_text())["components"]["model"]["metadata"]
    program = Runtime.get().load_program(entry)
    results = program.load_method("forward").execute([torch.as_tensor(inputs[name]) for name in about["kwargs"]])
    names = json.loads(json.loads(about["out_spec"])[1]["context"])
    return {name: result.numpy() for name, result in zip(names, results)}
"""

    def calibration(self) -> Need:
        return "required" if self.config.precision == "int8-static" else "never"

    def version(self) -> str:
        return f"{importlib.metadata.version('executorch')} torchao {importlib.metadata.version('torchao')}"

    def export(self, checkpoint: Checkpoint, folder: Path, context: StepContext) -> Artifact:
        from leptonsdk_executorch.export import export_checkpoint

        return export_checkpoint(checkpoint, folder, self.config, context)

    @classmethod
    def load(cls, artifact: Artifact, *, threads: int | None = None) -> Runner:
        from leptonsdk_executorch.runner import load_runner

        return load_runner(artifact, threads)
