"""Core ML as a format of `transformers.exporters` (experimental there): the one place that knows it.

After ``import leptonsdk_coreml.exporter``, ``CoreMLExporter().export(model, inputs, CoreMLExportConfig())`` exports, and
``ExportedModel.from_pretrained`` opens an artifact's folder ``coreml``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils import _pytree as pytree
from transformers.exporters import ExportedModel  # noqa: F401  for those who import this module
from transformers.exporters.auto import register_backend
from transformers.exporters.base import HfExporter
from transformers.exporters.configs import ExportConfigMixin
from transformers.exporters.metadata import ExportMetadata, build_export_metadata
from transformers.exporters.runners.base import ModelRunner

from leptonsdk.exporting import quiet
from leptonsdk_coreml.config import CoreMLConfig
from leptonsdk_coreml.export_convert import convert
from leptonsdk_coreml.export_trace import Traced, trace
from leptonsdk_coreml.runner import CoreMLRunner, open_model, runner_of

FORMAT = "coreml"
_FILES = ("Manifest.json", "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin")


@dataclass
class CoreMLExportConfig(ExportConfigMixin):  # type: ignore[misc]
    """What `CoreMLExporter` takes; see `CoreMLConfig` for the same names."""

    export_format: str = FORMAT
    precision: str = "fp16"
    minimum_deployment_target: str = "iOS18"
    max_batch_size: int = 64
    max_length: int | None = None
    quantizer: Any = None  # export_for_generation reads it of every config


class CoreMLExporter(HfExporter):  # type: ignore[misc]
    """ML programs, in fp16 or fp32."""

    export_format = FORMAT
    config_class = CoreMLExportConfig
    program_suffix = ".mlpackage"
    required_packages: list[str] = ["torch", "coremltools"]  # noqa: RUF012  as its base has it

    def export_program(
        self, model: Any, sample_inputs: MutableMapping[str, Any], config: CoreMLExportConfig
    ) -> tuple[Any, ExportMetadata]:
        inputs = {name: value for name, value in sample_inputs.items() if isinstance(value, torch.Tensor)}
        settings = CoreMLConfig.model_validate(
            {key: value for key, value in config.to_dict().items() if key in CoreMLConfig.model_fields}
        )
        traced = trace(model, inputs)
        program = convert(traced, settings, fp16=settings.precision != "fp32")
        return program, metadata_of(model, traced)

    @classmethod
    def save_program(cls, program: Any, path: str | Path) -> None:
        with quiet():
            program.save(str(path))

    @classmethod
    def program_files(cls, filename: str) -> list[str]:
        return [f"{filename}/{part}" for part in _FILES]

    @classmethod
    def load_program(cls, path: str | Path) -> Any:
        return open_model(str(path))


class CoreMLModelRunner(ModelRunner):  # type: ignore[misc]
    """Runs a package in Core ML on macOS, and by reference elsewhere."""

    def __init__(self, runner: CoreMLRunner, metadata: ExportMetadata) -> None:
        super().__init__(metadata)
        self.runner = runner

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @classmethod
    def from_program(cls, program: Any, metadata: ExportMetadata, device: Any = None) -> CoreMLModelRunner:
        return cls(runner_of(program, metadata.export_config.get("precision", "")), metadata)

    def __call__(self, share_inputs: bool = True, share_outputs: bool = False, **inputs: Any) -> Any:
        return self.unflatten(list(self.runner(**inputs).values()))


def metadata_of(model: Any, traced: Traced) -> ExportMetadata:
    """What ``export.json`` says of a program."""
    _, in_spec = pytree.tree_flatten(((), dict(traced.inputs)))
    _, out_spec = pytree.tree_flatten(traced.structure)
    program = SimpleNamespace(call_spec=SimpleNamespace(in_spec=in_spec, out_spec=out_spec))
    found: ExportMetadata = build_export_metadata(model, traced.inputs, program, ["torch", "coremltools"])
    return found


def write_export_manifest(metadata: ExportMetadata, config: Mapping[str, Any], folder: Path, file: str) -> None:
    """Write ``export.json`` beside a package."""
    described = {**dataclasses.asdict(metadata), "export_config": {"export_format": FORMAT, **config}}
    manifest = {
        "schema_version": 1,
        "export_format": FORMAT,
        "components": {"model": {"file": file, "metadata": described}},
    }
    (folder / "export.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


register_backend(CoreMLExporter, CoreMLModelRunner)
