"""Ready inputs as calibration data: batches are cut to the size that is asked for, and nothing is lost on the way."""

from __future__ import annotations

import torch

from leptonsdk.evaluation.inputs import are_inputs, cut


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
