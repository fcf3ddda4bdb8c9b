"""Greedy generation with a cache is transformers' own, token for token."""

from __future__ import annotations

import pytest
import torch
from leptonsdk_onnxruntime import OnnxRuntimeBackend

DECODERS = ["llama", "gpt2"]


def greedy(model, batch, **options):
    with torch.no_grad():
        return model.generate(**batch, do_sample=False, num_beams=1, use_cache=True, **options)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("rows", [1, 4])
def test_greedy_is_token_for_token_the_same(exports, name, rows, tiny):
    batch = tiny.batch(name, rows, 8, seed=5)
    expected = greedy(tiny.models[name]().model, batch, max_new_tokens=24, min_new_tokens=24, eos_token_id=None)
    found = OnnxRuntimeBackend.load(exports(name), threads=2).generate(**batch, max_new_tokens=24)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("name", "precision"), [("llama", "fp32"), ("gpt2", "fp32"), ("llama", "int8-dynamic"), ("llama", "int8-static")]
)
def test_onnxruntime_alone_generates_the_same(exports, name, precision, tiny):
    artifact, batch = exports(name, precision), tiny.batch(name, 3, 8, seed=5)
    found, runner = tiny.alone(artifact, batch, new_tokens=12), OnnxRuntimeBackend.load(artifact, threads=2)
    assert torch.equal(found["ids"], runner.generate(**batch, max_new_tokens=12)[:, 8:])


@pytest.mark.parametrize("name", DECODERS)
def test_rows_end_at_eos_and_are_padded(exports, name, tiny):
    model, batch = tiny.models[name]().model, tiny.batch(name, 4, 8, seed=5)
    free = greedy(model, batch, max_new_tokens=12, eos_token_id=None)
    eos = int(free[0, 8 + 4])  # a token that the first row comes to
    expected = greedy(model, batch, max_new_tokens=12, eos_token_id=eos, pad_token_id=0)
    runner = OnnxRuntimeBackend.load(exports(name), threads=2)
    assert torch.equal(runner.generate(**batch, max_new_tokens=12, eos_token_id=eos), expected)


@pytest.mark.parametrize("precision", ["fp32", "int8-dynamic", "int8-static"])
def test_a_call_needs_only_tokens(exports, precision):
    runner = OnnxRuntimeBackend.load(exports("llama", precision), threads=2)
    logits = runner(input_ids=torch.tensor([[5, 6, 7]])).logits
    assert logits.shape == (1, 3, 160)
    assert torch.isfinite(logits).all()


def test_int8_generates(exports, tiny):
    for precision in ("int8-dynamic", "int8-static"):
        batch = tiny.batch("llama", 2, 6, seed=1)
        tokens = OnnxRuntimeBackend.load(exports("llama", precision), threads=2).generate(**batch, max_new_tokens=5)
        assert tokens.shape == (2, 11)


def test_decoders_are_quantized_in_blocks_unless_asked_otherwise(exports):
    blocks, tensor = exports("llama", "int8"), exports("llama", "int8", activation_scales="tensor")
    assert blocks.details["quantization"]["matmuls"] == 0
    assert tensor.details["quantization"]["matmuls_in_blocks"] == 0
    assert blocks.details["parity"]["relative_rms"] < tensor.details["parity"]["relative_rms"]


def test_blocks_can_be_asked_for_elsewhere(exports):
    report = exports("bert", "int8", activation_scales="block").details["quantization"]
    assert report["matmuls_in_blocks"] > 0
