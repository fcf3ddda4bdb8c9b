"""A task's scores of an exported artifact, in its runtime, are those of the model in torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import leptonsdk as lepton

TAGGED = [
    {"tokens": ["Ada", "wrote", "the", "first", "program"], "ner_tags": [1, 0, 0, 0, 0]},
    {"tokens": ["The", "Nile", "is", "a", "river"], "ner_tags": [0, 3, 0, 0, 0]},
    {"tokens": ["London", "Paris"], "ner_tags": [3, 3]},
]
LONG = "river of a city is in the tower . " * 8  # several windows
ASKED = [
    {
        "question": "what is the capital ?",
        "context": "Paris is the capital of France .",
        "answers": {"text": ["Paris"], "answer_start": [0]},
    },
    {
        "question": "where is the Nile ?",
        "context": f"{LONG}the Nile is in Africa .",
        "answers": {"text": ["in Africa"], "answer_start": [len(LONG) + 12]},
    },
]
TEXTS = ["the capital of the river", "Paris", "who wrote the first program , Ada ?", "a tower in London"]


@pytest.fixture(params=["onnxruntime", "openvino"])
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def assert_same_scores(model: Any, task: str, rows: Any, runtime: str, out: Path, **options: Any) -> None:
    artifact = lepton.export(model, runtime, out, precision="fp32")
    ours, torchs = (lepton.evaluate(one, rows, batch_size=2, options=options) for one in (artifact, model))
    assert ours.task == torchs.task == task
    assert ours.values() == pytest.approx(torchs.values(), rel=1e-4, abs=1e-6)
    assert len(ours.values()) >= 2


@pytest.mark.parametrize(
    ("task", "architecture", "rows"),
    [
        ("question-answering", "BertForQuestionAnswering", ASKED),
        ("fill-mask", "BertForMaskedLM", TEXTS),
    ],
)
def test_texts(
    tmp_path: Path, bert_for: Callable[..., Path], runtime: str, task: str, architecture: str, rows: Any
) -> None:
    assert_same_scores(lepton.load_model(bert_for(architecture)), task, rows, runtime, tmp_path / "out")


def test_tags(tmp_path: Path, tagger: Path, runtime: str) -> None:
    assert_same_scores(lepton.load_model(tagger), "token-classification", TAGGED, runtime, tmp_path / "out")
