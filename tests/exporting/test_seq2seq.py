"""Encoder-decoder generation is transformers' own, token for token, whatever runs the decoder."""

from __future__ import annotations

import pytest
import torch
import transformers

from leptonsdk.errors import UsageError
from leptonsdk.exporting import Seq2SeqSettings, generate_seq2seq, torch_step, with_decoder_inputs

_SIZES = {"vocab_size": 60, "d_model": 32, "decoder_start_token_id": 1, "pad_token_id": 0, "eos_token_id": 2}


def t5():
    config = transformers.T5Config(**_SIZES, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
    return transformers.T5ForConditionalGeneration(config)


def bart():
    config = transformers.BartConfig(
        **_SIZES,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=64,
        forced_eos_token_id=2,
    )
    model = transformers.BartForConditionalGeneration(config)
    model.generation_config.update(forced_bos_token_id=7, forced_eos_token_id=2, no_repeat_ngram_size=2, min_length=6)
    return model


def whisper(**generation):
    config = transformers.WhisperConfig(
        **_SIZES,
        bos_token_id=1,
        num_mel_bins=8,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_source_positions=10,
        max_target_positions=24,
    )
    model = transformers.WhisperForConditionalGeneration(config)
    model.generation_config = transformers.GenerationConfig(
        decoder_start_token_id=1,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        max_length=24,
        no_timestamps_token_id=50,
        return_timestamps=False,
        suppress_tokens=[5, 6],
        begin_suppress_tokens=[7],
        **generation,
    )
    return model


def english():
    return whisper(is_multilingual=False)


def multilingual():
    return whisper(
        is_multilingual=True,
        lang_to_id={"<|en|>": 51, "<|de|>": 52, "<|fr|>": 53},
        task_to_id={"transcribe": 54, "translate": 55},
    )


def make(name, seed=0):
    torch.manual_seed(seed)
    model = {"t5": t5, "bart": bart, "english": english, "multilingual": multilingual}[name]().eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data.normal_(std=1.5 * parameter.shape[1] ** -0.5)
    return model


def inputs(model, rows=3):
    generator = torch.Generator().manual_seed(1)
    if model.main_input_name == "input_features":
        return {"input_features": torch.randn(rows, 8, 20, generator=generator)}
    mask = torch.ones(rows, 9, dtype=torch.long)
    mask[1, 6:] = 0
    return {"input_ids": torch.randint(3, 60, (rows, 9), generator=generator), "attention_mask": mask}


@pytest.mark.parametrize("name", ["t5", "bart", "english", "multilingual"])
@pytest.mark.parametrize("seed", [0, 1, 2])
@torch.no_grad()
def test_greedy_ids_are_those_of_transformers(name, seed):
    model = make(name, seed)
    given = inputs(model)
    expected = model.generate(**given, max_new_tokens=12, do_sample=False, num_beams=1)
    settings = Seq2SeqSettings.of(model).to_json()
    found = generate_seq2seq(torch_step(model, given), 3, settings, max_new_tokens=12)
    assert found.tolist() == expected.tolist()


@torch.no_grad()
def test_rows_that_end_are_padded_as_transformers_does():
    for name in ("t5", "english"):
        model = make(name)
        given = inputs(model)
        free = model.generate(**given, max_new_tokens=12, do_sample=False, num_beams=1)
        model.generation_config.eos_token_id = int(free[0, 4])  # a token that the first row comes to
        expected = model.generate(**given, max_new_tokens=12, do_sample=False, num_beams=1)
        assert expected.tolist() != free.tolist()
        found = generate_seq2seq(torch_step(model, given), 3, Seq2SeqSettings.of(model), max_new_tokens=12)
        assert found.tolist() == expected.tolist()


@pytest.mark.parametrize(
    "options", [{"language": "de"}, {"language": "fr", "task": "translate"}, {"task": "translate"}]
)
@torch.no_grad()
def test_language_and_task_are_whispers(options):
    model = make("multilingual")
    given = inputs(model)
    expected = model.generate(**given, max_new_tokens=8, do_sample=False, num_beams=1, **options)
    settings = Seq2SeqSettings.of(model)
    found = generate_seq2seq(torch_step(model, given), 3, settings, max_new_tokens=8, **options)
    assert found.tolist() == expected.tolist()


@torch.no_grad()
def test_lengths_default_to_the_models():
    for name in ("t5", "english"):
        model = make(name)
        given = inputs(model)
        expected = model.generate(**given, do_sample=False, num_beams=1)
        found = generate_seq2seq(torch_step(model, given), 3, Seq2SeqSettings.of(model))
        assert found.tolist() == expected.tolist()


@torch.no_grad()
def test_a_seed_repeats_a_draw_and_temperature_is_heard():
    model = make("t5")
    given = inputs(model)

    def draw(seed, **more):
        settings = Seq2SeqSettings.of(model)
        step = torch_step(model, given)
        return generate_seq2seq(step, 3, settings, max_new_tokens=10, do_sample=True, seed=seed, **more).tolist()

    assert draw(1) == draw(1) != draw(2)
    greedy = model.generate(**given, max_new_tokens=10, do_sample=False, num_beams=1).tolist()
    assert draw(1, temperature=1e-4) == greedy


def test_what_a_model_does_not_know_is_an_error():
    settings = Seq2SeqSettings.of(make("multilingual"))
    with pytest.raises(UsageError, match=r"language '<\|xx\|>'") as caught:
        settings.prompt(language="xx")
    assert "<|de|>" in str(caught.value.hint)
    with pytest.raises(UsageError, match="positions"):
        generate_seq2seq(lambda *_: None, 1, Seq2SeqSettings.of(make("english")), max_new_tokens=100)


@pytest.mark.parametrize("name", ["t5", "english", "multilingual"])
def test_inputs_to_compare_hold_the_models_own_answer(name):
    model = make(name)
    given = inputs(model)
    ids = with_decoder_inputs(model, given, 6)["decoder_input_ids"]
    expected = model.generate(**given, max_new_tokens=6, do_sample=False, num_beams=1)
    assert ids[:, -expected.shape[1] :].tolist() == expected.tolist()
    assert (ids[:, 0] == 1).all()
