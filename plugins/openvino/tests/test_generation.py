"""Greedy generation with OpenVINO's state is transformers' own, token for token."""

from __future__ import annotations

import pytest
import torch
from leptonsdk_openvino import OpenVINOBackend

SEQ2SEQ = ["whisper", "t5"]


def load(artifact):
    return OpenVINOBackend.load(artifact, threads=1)


def greedy(model, batch, **options):
    with torch.no_grad():
        return model.generate(**batch, do_sample=False, num_beams=1, **options)


@pytest.mark.parametrize("rows", [1, 4])
def test_a_decoder_is_token_for_token_the_same(exports, make, rows):
    batch = make.batch("llama", rows, 8, seed=5)
    expected = greedy(make.model("llama"), batch, max_new_tokens=16, min_new_tokens=16, eos_token_id=None)
    runner = load(exports("llama"))
    assert torch.equal(runner.generate(**batch, max_new_tokens=16), expected)
    assert torch.equal(runner.generate(**batch, max_new_tokens=16), expected)  # its state starts anew


def test_rows_of_a_decoder_end_and_are_padded(exports, make):
    model, batch = make.model("llama"), make.batch("llama", 4, 8, seed=5)
    free = greedy(model, batch, max_new_tokens=12, eos_token_id=None)
    eos = int(free[0, 8 + 4])  # a token that the first row comes to
    expected = greedy(model, batch, max_new_tokens=12, eos_token_id=eos, pad_token_id=0)
    found = load(exports("llama")).generate(**batch, max_new_tokens=12, eos_token_id=eos)
    assert torch.equal(found, expected)


def test_sampling_follows_its_seed(exports, make):
    runner, batch = load(exports("llama")), make.batch("llama", 2, 6, seed=1)

    def draw(seed, **more):
        return runner.generate(**batch, max_new_tokens=8, do_sample=True, seed=seed, **more)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert torch.equal(draw(1, top_k=1), runner.generate(**batch, max_new_tokens=8))


def test_a_call_needs_only_tokens_and_an_empty_cache(exports, make):
    runner, ids = load(exports("llama")), torch.tensor([[5, 6, 7]])
    runner.generate(ids, max_new_tokens=3)
    with torch.no_grad():
        expected = make.model("llama")(ids).logits
    torch.testing.assert_close(runner(input_ids=ids).logits, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", SEQ2SEQ)
@pytest.mark.parametrize("rows", [1, 3])
def test_an_encoder_decoder_is_token_for_token_the_same(exports, make, name, rows):
    runner = load(exports(name))
    for seed in (5, 6):  # the second time, nothing is left of the first
        batch = make.batch(name, rows, 9, seed=seed)
        expected = greedy(make.model(name), batch, max_new_tokens=12)
        assert runner.generate(**batch, max_new_tokens=12).tolist() == expected.tolist()


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_openvino_alone_says_what_transformers_does(exports, make, name):
    batch, model = make.batch(name, 3, 9, seed=5), make.model(name)
    expected = greedy(model, batch, max_new_tokens=12)
    expected = expected if name == "whisper" else expected[:, 1:]  # whose answer comes without its start
    expected[expected == model.config.eos_token_id] = 0
    found = make.alone(exports(name), batch, new_tokens=12)["ids"]
    assert torch.equal(found, torch.nn.functional.pad(expected, (0, 12 - expected.shape[1])))
    assert len(set(found.flatten().tolist())) > 3


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_logits_of_an_encoder_decoder(exports, make, name):
    batch = make.batch(name, 3, 7, seed=2) | {"decoder_input_ids": torch.randint(3, 40, (3, 5))}
    with torch.no_grad():
        expected = make.model(name)(**batch)
    runner = load(exports(name))
    found = runner(**batch)
    torch.testing.assert_close(found.logits, expected.logits, atol=5e-5, rtol=1e-4)
    kept = batch["attention_mask"].bool() if name == "t5" else slice(None)
    torch.testing.assert_close(
        found.encoder_last_hidden_state[kept], expected.encoder_last_hidden_state[kept], atol=5e-5, rtol=1e-4
    )
    assert "decoder_input_ids" in runner.input_names
    with pytest.raises(TypeError, match="decoder_input_ids"):
        runner(**{key: value for key, value in batch.items() if key != "decoder_input_ids"})


def test_int8_of_an_encoder_decoder(exports, make):
    artifact = exports("whisper", "int8", tolerance=0.35)
    report = artifact.details["quantization"]
    assert report["openvino_encoder_model"]["method"] == "nncf.quantize"
    assert report["openvino_decoder_model"]["method"] == "nncf.compress_weights"
    batch = make.batch("whisper", 2, seed=1)
    tokens = load(artifact).generate(**batch, max_new_tokens=5)
    assert tokens.shape[0] == 2
    assert torch.equal(make.alone(artifact, batch, new_tokens=5)["ids"][:, : tokens.shape[1]], tokens)
