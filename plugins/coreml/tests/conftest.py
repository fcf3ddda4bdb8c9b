"""Exports of tiny random models, each made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from leptonsdk.checkpoint import Checkpoint
from leptonsdk.hooks import StepContext
from leptonsdk.testing.alone import run_artifact


def _sliding(kind: str) -> Any:
    torch.manual_seed(0)
    text = {
        "vocab_size": 40,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    if kind == "mistral":
        config = transformers.MistralConfig(**text, num_key_value_heads=2, sliding_window=3, initializer_range=0.2)
        return transformers.MistralForCausalLM(config).eval()
    config = transformers.ModernBertConfig(
        **text, local_attention=4, global_attn_every_n_layers=2, pad_token_id=0, initializer_range=0.2
    )
    return transformers.ModernBertForSequenceClassification(config).eval()


def _resnet() -> Any:
    torch.manual_seed(0)
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3)
    model = transformers.ResNetForImageClassification(config)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    model.config.image_size = 32
    return model.eval()


@pytest.fixture(scope="session")
def model(tiny: Any) -> Any:
    """A tiny model by name."""

    def make(name: str, layers: int = 2) -> Any:
        if name in ("mistral", "modernbert"):
            return _sliding(name)
        return _resnet() if name == "resnet" else tiny.build(name, layers=layers)

    return make


@pytest.fixture(scope="session")
def batch() -> Any:
    """Inputs of a model; each text after the first is one token shorter than the one before it."""

    def make(name: str, rows: int, length: int = 10) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(3)
        if name in ("vit", "resnet"):
            size = 16 if name == "vit" else 32
            return {"pixel_values": torch.randn(rows, 3, size, size, generator=generator)}
        ids = torch.randint(3, 40, (rows, length), generator=generator)
        places = torch.arange(length).expand(rows, -1)
        padded = torch.arange(rows)[:, None].clamp(max=length - 1)
        left = name in ("llama", "mistral")
        mask = (places >= padded if left else places < length - padded).long()
        return {"input_ids": ids, "attention_mask": mask}

    return make


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory, model: Any) -> Any:
    """Exports a checkpoint, or a tiny model by name, in a precision.

    A model by name is converted once for all precisions that compress the same program: that is most of an export's time.
    """
    from leptonsdk_coreml import CoreMLBackend, CoreMLConfig
    from leptonsdk_coreml import export as exporting

    done: dict[tuple[str, str], Any] = {}
    programs: dict[tuple[Any, ...], Any] = {}
    convert = exporting.convert

    def converted_once(source: str) -> Any:
        def converted(traced: Any, config: Any, *, fp16: bool, pipeline: Any = None) -> Any:
            shapes = (config.minimum_deployment_target, config.max_length, config.max_batch_size)
            key = (source, fp16, *shapes)
            if key not in programs:
                programs[key] = convert(traced, config, fp16=fp16, pipeline=pipeline)
            return programs[key]

        return converted

    def export(source: Any, precision: str = "fp32", folder: Path | None = None, **config: Any) -> Any:
        key = (source, precision + repr(sorted(config.items())))
        if isinstance(source, str) and key in done:
            return done[key]
        folder = folder or tmp_path_factory.mktemp("export")
        checkpoint = Checkpoint.of(model(source)) if isinstance(source, str) else source
        backend = CoreMLBackend(CoreMLConfig(precision=precision, **config))
        with pytest.MonkeyPatch.context() as patch:
            if isinstance(source, str):
                patch.setattr(exporting, "convert", converted_once(source))
            artifact = backend.export(checkpoint, folder, StepContext(seed=0, folder=folder))
        if isinstance(source, str):
            done[key] = artifact
        return artifact

    return export


@pytest.fixture(scope="session")
def alone() -> Any:
    """What coremltools reads in an artifact in a process without leptonsdk and what it was made with: see ``alone_reading.py``."""
    program = Path(__file__).with_name("alone_reading.py").read_text()

    def read(artifact: Any) -> dict[str, torch.Tensor]:
        return run_artifact(
            artifact.folder / artifact.entry, program, {}, "coreml", ("torch", "transformers", "optimum")
        )

    return read
