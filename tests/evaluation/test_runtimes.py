"""Every task's scores of an exported artifact, in its runtime, are those of the model in torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import wavfile

import leptonsdk as lepton
from leptonsdk.checkpoint import Checkpoint
from leptonsdk.testing.models import tiny_checkpoint

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
WRITTEN = [{"source": "w5 w6 w7 w8", "target": "w9 w5"}, {"source": "w9 w10", "target": "w7 w8 w6"}]


def recordings(folder: Path, **column: list[Any]) -> list[dict[str, Any]]:
    """Two tones in files, with what one column says of them."""
    ((name, values),) = column.items()
    rows = []
    for number, value in enumerate(values):
        tone = np.sin(2 * np.pi * (200 + 500 * number) * np.arange(2000 + 1000 * number) / 16000)
        wavfile.write(folder / f"{number}.wav", 16000, (tone * 32767).astype("<i2"))
        rows.append({"audio": str(folder / f"{number}.wav"), name: value})
    return rows


def hearer() -> Checkpoint:
    """A classifier on Whisper's encoder."""
    from transformers import WhisperForAudioClassification

    whisper = tiny_checkpoint("whisper")
    config = whisper.model.config.__class__(**{**whisper.model.config.to_dict(), "num_labels": 2})
    torch.manual_seed(0)
    model = WhisperForAudioClassification(config).eval()
    return Checkpoint.of(model, task="audio-classification", processor=whisper.processor)


@pytest.fixture(params=["onnxruntime", "openvino"])
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def assert_same_scores(model: Any, tasks: str | list[str], rows: Any, runtime: str, out: Path, **options: Any) -> None:
    """Of each task that the model is for, by one export."""
    artifact = lepton.export(model, runtime, out, precision="fp32", samples=rows)
    for task in [tasks] if isinstance(tasks, str) else tasks:
        subjects = (dataclasses.replace(artifact, task=task), model.replace(task=task))
        ours, torchs = (lepton.evaluate(one, rows, batch_size=2, options=options) for one in subjects)
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


def test_what_is_written(tmp_path: Path, runtime: str) -> None:
    tasks = ["summarization", "translation"]
    checkpoint = tiny_checkpoint("t5", task=tasks[0])
    assert_same_scores(checkpoint, tasks, WRITTEN, runtime, tmp_path / "out", max_new_tokens=6)


def test_what_is_heard(tmp_path: Path, runtime: str) -> None:
    rows = recordings(tmp_path, text=["w5 w6", "w7"])
    checkpoint = tiny_checkpoint("whisper")
    assert_same_scores(checkpoint, "automatic-speech-recognition", rows, runtime, tmp_path / "out", max_new_tokens=6)


def test_kinds_of_sounds(tmp_path: Path, runtime: str) -> None:
    rows = recordings(tmp_path, label=[0, 1])
    assert_same_scores(hearer(), "audio-classification", rows, runtime, tmp_path / "out")
