"""Encoder-decoders that answer in one call, as classifiers do, are exported as models of one graph."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from leptonsdk.api import installed_plugins
from leptonsdk.checkpoint import Checkpoint
from leptonsdk.hooks import StepContext

SIZES = {
    **{"vocab_size": 40, "d_model": 32, "num_labels": 3, "encoder_layers": 1, "decoder_layers": 1},
    **{f"{part}_attention_heads": 4 for part in ("encoder", "decoder")},
    **{f"{part}_ffn_dim": 64 for part in ("encoder", "decoder")},
}


def whisper() -> Any:
    config = transformers.WhisperConfig(
        **SIZES,
        num_mel_bins=8,
        max_source_positions=10,
        classifier_proj_size=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    return transformers.WhisperForAudioClassification(config)


def bart() -> Any:
    return transformers.BartForSequenceClassification(transformers.BartConfig(**SIZES, max_position_embeddings=32))


def inputs(name: str, rows: int, seed: int, length: int = 8) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    if name == "whisper":
        return {"input_features": torch.randn(rows, 8, 20, generator=generator)}
    ids = torch.randint(4, 40, (rows, length), generator=generator)
    ids[:, -1] = 2  # the end, which BART's classifier reads
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", ["whisper", "bart"])
def test_they_say_what_torch_says(tmp_path: Path, name: str, backend: str) -> None:
    torch.manual_seed(0)
    model = {"whisper": whisper, "bart": bart}[name]().eval()

    def samples(size: int) -> Iterator[dict[str, torch.Tensor]]:
        yield from (inputs(name, size, seed) for seed in range(4))

    folder, scratch = tmp_path / "out", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    plugin = installed_plugins().get("backend", backend)
    context = StepContext(seed=0, folder=scratch, samples=samples)
    artifact = plugin(plugin.config_class()).export(Checkpoint.of(model), folder, context)
    given = inputs(name, 3, seed=9, length=11)
    with torch.no_grad():
        expected = model(**given).logits
    assert torch.allclose(plugin.load(artifact, threads=1)(**given).logits, expected, atol=2e-5)
