"""Hidden tokens: which, and how well they are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

import leptonsdk as lepton
from leptonsdk.errors import DataError
from leptonsdk.evaluation.subjects import open_subject
from leptonsdk.evaluation.tasks.fill_mask import FillMask, hidden_tokens
from leptonsdk.hooks import EvaluationSettings, load_plugins

PLUGINS = load_plugins()
TEXTS = ["the capital of the river", "Paris", "who wrote the first program , Ada ?", "a tower in London " * 3, "  "]
MASK = 4


@pytest.fixture(scope="module")
def filler(bert_for: Callable[..., Path]) -> Path:
    return bert_for("BertForMaskedLM")


def test_losses_equal_a_plain_loop(filler: Path) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    scores = lepton.evaluate(filler, TEXTS, batch_size=3)
    tokenizer, model = AutoTokenizer.from_pretrained(filler), AutoModelForMaskedLM.from_pretrained(filler).eval()
    right, losses = [], []
    for text in TEXTS[:4]:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        hidden = hidden_tokens(text, list(range(1, ids.shape[1] - 1)), 0.15)
        assert len(hidden) == max(1, round(0.15 * (ids.shape[1] - 2)))
        masked = ids.clone()
        masked[0, hidden] = MASK
        with torch.no_grad():
            logits = model(masked).logits[0, hidden]
        right += (logits.argmax(-1) == ids[0, hidden]).tolist()
        losses += torch.nn.functional.cross_entropy(logits, ids[0, hidden], reduction="none").tolist()
    assert len(scores.ids) == 4  # nothing can be hidden in blanks
    assert scores.columns["masked"].sum() == len(losses)
    assert scores.value("accuracy") == np.mean(right)
    assert scores.value("log_loss") == pytest.approx(np.mean(losses), rel=1e-5)
    assert scores.value("perplexity") == pytest.approx(np.exp(np.mean(losses)), rel=1e-4)
    backward = lepton.evaluate(filler, TEXTS[::-1], batch_size=2)
    np.testing.assert_allclose(backward.columns["nll"][::-1], scores.columns["nll"], rtol=1e-5)


def test_a_text_decides_which_tokens_are_hidden(filler: Path) -> None:
    tokenizer = open_subject(lepton.load_model(filler), PLUGINS).processor
    alone = FillMask().encode(tokenizer, {"text": [TEXTS[2]]}, EvaluationSettings())
    beside = FillMask().encode(tokenizer, {"text": [TEXTS[3], TEXTS[2]]}, EvaluationSettings())
    length = alone["input_ids"].shape[1]
    assert torch.equal(beside["input_ids"][1, :length], alone["input_ids"][0])
    assert set(alone) == {"input_ids", "token_type_ids", "attention_mask"}
    assert hidden_tokens("a", range(100), 0.15) != hidden_tokens("b", range(100), 0.15)
    assert len(set(hidden_tokens("a", range(100), 0.15))) == 15
    assert hidden_tokens("a", [], 0.15) == []


def test_a_model_that_knows_scores_1(filler: Path) -> None:
    subject = open_subject(lepton.load_model(filler), PLUGINS)
    tokenizer, settings = subject.processor, EvaluationSettings(batch_size=2, options=subject.options)
    rows = Dataset.from_dict({"text": TEXTS[:4]})
    batches = [tokenizer(TEXTS[i : i + 2], padding=True, return_tensors="pt")["input_ids"] for i in (0, 2)]

    def knows(**inputs: torch.Tensor) -> Any:
        ids = batches.pop(0)
        assert ((inputs["input_ids"] == ids) | (inputs["input_ids"] == MASK)).all()
        return SimpleNamespace(logits=100 * torch.nn.functional.one_hot(ids, len(tokenizer)).float())

    columns = FillMask().evaluate(knows, tokenizer, rows, settings)  # type: ignore[arg-type]
    assert (columns["right"] == columns["masked"]).all()
    assert columns["nll"].max() < 1e-6


def test_a_long_text_is_several_examples(filler: Path) -> None:
    text = "the capital of a city is the tower in the river " * 20
    scores = lepton.evaluate(filler, [text, "Paris"])
    assert len(scores.ids) == -(-220 // 46) + 1
    assert scores.columns["masked"][-1] == 1
    assert scores.columns["masked"][:-1].sum() == pytest.approx(0.15 * 220, abs=3)
    more = lepton.evaluate(filler, [text], options={"masked_share": 0.5})
    assert more.columns["masked"].sum() == pytest.approx(110, abs=3)


def test_training_batch_and_errors(filler: Path, bert_folder: Path) -> None:
    subject = open_subject(lepton.load_model(filler), PLUGINS)
    batch = FillMask().training_batch(subject.processor, {"text": TEXTS}, EvaluationSettings())
    assert ((batch["labels"] != -100) == (batch["input_ids"] == MASK)).all()
    assert torch.isfinite(subject.runner.model(**batch).loss)  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="it has no text"):
        lepton.evaluate(filler, ["", " "])
    without = open_subject(lepton.load_model(bert_folder), PLUGINS)  # its tokenizer has no mask token
    with pytest.raises(DataError, match="no mask token"):
        FillMask().encode(without.processor, {"text": ["a"]}, EvaluationSettings())


def test_a_gate_gives_an_interval(filler: Path) -> None:
    model = lepton.load_model(filler)
    texts = [f"{text} {n}" for n in range(8) for text in TEXTS]
    baseline = lepton.evaluate(model, texts)
    with torch.no_grad():
        model.model.cls.predictions.decoder.bias.add_(torch.randn(model.model.config.vocab_size))
    (result,) = lepton.gate(baseline, lepton.evaluate(model, texts), {"log_loss": {"max_drop": 0.1}}).conditions
    assert result.interval.low < result.drop < result.interval.high
