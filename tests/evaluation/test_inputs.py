"""Ready inputs as calibration data: batches are cut to the size that is asked for, and nothing is lost on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import leptonsdk as lepton
from leptonsdk.api import installed_plugins
from leptonsdk.errors import DataError
from leptonsdk.evaluation.inputs import are_inputs, batches_of, cut

TEXTS = ["good film", "a very dull story", "bad"]


def test_a_batch_is_cut_to_size_row_by_row() -> None:
    batch = {"input_ids": torch.arange(10).reshape(5, 2), "mask": torch.arange(5), "use_cache": False}
    parts = list(cut(batch, 2))
    assert [len(part["input_ids"]) for part in parts] == [2, 2, 1]
    for name in ("input_ids", "mask"):
        assert torch.equal(torch.cat([part[name] for part in parts]), batch[name])
    assert all(part["use_cache"] is False for part in parts)


def test_a_smaller_batch_stays_whole() -> None:
    batch = {"input_ids": torch.zeros(3, 2)}
    assert list(cut(batch, 4)) == [batch]


def test_tensors_without_a_common_first_axis_stay_whole() -> None:
    batch = {"pixel_values": torch.zeros(4, 3), "bias": torch.zeros(2)}
    assert list(cut(batch, 1)) == [batch]


def test_ready_inputs_are_told_from_rows() -> None:
    assert are_inputs([{"input_ids": torch.zeros(1, 2)}])
    assert not are_inputs(["a text"])
    assert not are_inputs([{"text": "a row"}])
    assert not are_inputs("path.tsv")


TASKS = ["text-classification", "feature-extraction", "token-classification", "summarization"]


@pytest.mark.parametrize("task", TASKS)
def test_texts_without_labels_make_inputs(task: str, bert_folder: Path) -> None:
    checkpoint = lepton.load_model(bert_folder).replace(task=task)
    expected = checkpoint.processor(TEXTS, padding=True, return_tensors="pt")["input_ids"]
    make = batches_of(checkpoint, TEXTS, None, installed_plugins())
    (batch,) = make(8)
    assert torch.equal(batch["input_ids"], expected)


def test_texts_calibrate_a_classifier_as_labelled_rows_do(bert_folder: Path) -> None:
    texts, rows = TEXTS * 4, [{"sentence": text, "label": 0} for text in TEXTS * 4]
    one, other = (lepton.quantize_model(bert_folder, 4, group_size=16, calibration=data) for data in (texts, rows))
    assert all(torch.equal(tensor.integers, other.quantized[name].integers) for name, tensor in one.quantized.items())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (["a question"], "it has no 'context'"),
        ([{"words": "no role"}], "it needs the columns"),
        (5, "a int is no row"),
        ([1, 2], "a int is no row"),
    ],
)
def test_what_makes_no_inputs_is_said(data: Any, message: str, bert_folder: Path) -> None:
    checkpoint = lepton.load_model(bert_folder).replace(task="question-answering")
    with pytest.raises(DataError, match=message):
        next(batches_of(checkpoint, data, None, installed_plugins())(8))
