"""Encoder-decoders: two graphs, the decoder's with its cache, that generate what transformers generates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx_ir as ir
import pytest
import torch
from leptonsdk_onnxruntime import OnnxRuntimeBackend, OnnxRuntimeConfig
from leptonsdk_onnxruntime.quantize_packed import unpacked

import leptonsdk as lepton
from leptonsdk.checkpoint import Checkpoint
from leptonsdk.hooks import StepContext

NAMES = ("whisper", "t5")


def batch(name: str, rows: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    if name == "whisper":
        return {"input_features": torch.randn(rows, 8, 20, generator=generator)}
    ids = torch.randint(3, 40, (rows, 9), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory, tiny: Any) -> Any:
    made: dict[Any, Any] = {}

    def export(name: str, precision: str = "auto", bits: int | None = None) -> Any:
        if (name, precision, bits) not in made:
            checkpoint = Checkpoint.of(tiny.build(name))
            if bits is not None:
                checkpoint = lepton.quantize_model(checkpoint, bits, group_size=32)

            def batches(size: int) -> Iterator[dict[str, torch.Tensor]]:
                yield from (batch(name, size, seed) for seed in range(3))

            folder = tmp_path_factory.mktemp("artifact")
            context = StepContext(seed=0, folder=folder / "x", batches=batches, samples=batches, threads=1)
            backend = OnnxRuntimeBackend(OnnxRuntimeConfig(precision=precision))
            made[name, precision, bits] = checkpoint, backend.export(checkpoint, folder, context)
        return made[name, precision, bits]

    return export


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_greedy_text_are_the_models(exports: Any, name: str) -> None:
    checkpoint, artifact = exports(name)
    assert artifact.precision == "fp32"
    assert artifact.details["parity"]["max_abs_diff"] < 1e-4
    runner = OnnxRuntimeBackend.load(artifact, threads=1)
    for rows in (2, 4):  # neither the batch nor the length that were traced
        given = batch(name, rows, seed=7)
        expected = checkpoint.model.generate(**given, do_sample=False, num_beams=1, max_new_tokens=9)
        assert torch.equal(runner.generate(**given, max_new_tokens=9), expected)
        ids = torch.randint(3, 40, (rows, 5), generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            logits = checkpoint.model(**given, decoder_input_ids=ids).logits
        assert torch.allclose(runner(**given, decoder_input_ids=ids).logits, logits, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bits", [None, 4])
def test_onnxruntime_alone_says_what_transformers_does(exports: Any, tiny: Any, name: str, bits: int | None) -> None:
    checkpoint, artifact = exports(name, bits=bits)
    given, model = batch(name, seed=7), checkpoint.model
    expected = model.generate(**given, do_sample=False, num_beams=1, max_new_tokens=9)
    expected = expected if name == "whisper" else expected[:, 1:]  # whose answer comes without its start
    expected[expected == model.config.eos_token_id] = 0
    found = tiny.alone(artifact, given, new_tokens=9)["ids"]
    assert torch.equal(found, torch.nn.functional.pad(expected, (0, 9 - expected.shape[1])))
    assert len(set(found.flatten().tolist())) > 3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", ["int8-dynamic", "int8-static"])
def test_int8_is_near_and_smaller(exports: Any, tiny: Any, name: str, precision: str) -> None:
    checkpoint, whole = exports(name)
    _, small = exports(name, precision)
    assert 0 < small.details["parity"]["relative_rms"] < 0.2
    before, after = OnnxRuntimeBackend.weights(whole), OnnxRuntimeBackend.weights(small)
    assert before is not None
    assert after is not None
    # A key projection without a bias gets one of noughts where it becomes one product with query and value.
    assert before.parameters <= after.parameters < 1.02 * before.parameters
    assert after.bits < 0.6 * before.bits
    method = small.details["encoder_model"]["quantization"]["calibration"]["method"]
    assert (method == "dynamic") == (precision == "int8-dynamic")
    ids = OnnxRuntimeBackend.load(small, threads=1).generate(**batch(name), max_new_tokens=4)
    assert ids.shape[0] == 3
    wanted = ids if name == "whisper" else ids[:, 1:]
    found = tiny.alone(small, batch(name), new_tokens=4)["ids"][:, : wanted.shape[1]]
    assert torch.equal(found, wanted.masked_fill(wanted == checkpoint.model.config.eos_token_id, 0))


@pytest.mark.parametrize("name", NAMES)
def test_integers_go_into_both_graphs(exports: Any, name: str) -> None:
    checkpoint, artifact = exports(name, bits=4)
    assert artifact.precision == "packed"
    found: dict[str, Any] = {}
    for file in artifact.files:
        found |= unpacked(ir.load(artifact.folder / file).graph)
    assert found.keys() == checkpoint.quantized.keys()
    assert all((found[n][0] == t.integers.numpy()).all() for n, t in checkpoint.quantized.items())
    given = batch(name, 2, seed=3)
    expected = checkpoint.model.generate(**given, do_sample=False, num_beams=1, max_new_tokens=9)
    assert torch.equal(OnnxRuntimeBackend.load(artifact, threads=1).generate(**given, max_new_tokens=9), expected)


def test_a_missing_input_is_named(exports: Any) -> None:
    runner = OnnxRuntimeBackend.load(exports("t5")[1], threads=1)
    with pytest.raises(TypeError, match="decoder_input_ids"):
        runner(**batch("t5"))
    with pytest.raises(TypeError, match="input_ids"):
        runner.generate(attention_mask=torch.ones(1, 3))
