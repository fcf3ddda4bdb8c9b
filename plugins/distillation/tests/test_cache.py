"""The cache of the teacher's logits: a second epoch, a second run, another teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from leptonsdk_distillation import Distillation, DistillationConfig
from leptonsdk_distillation.cache import LogitsCache

from leptonsdk.errors import UsageError

LENGTHS = {"tagger": 12, "llama": 12, "masked": 12, "span": 12}


class Counted:
    """How often a model runs."""

    def __init__(self, model: Any) -> None:
        self.calls = 0
        model.register_forward_hook(self)

    def __call__(self, *_: Any) -> None:
        self.calls += 1


def shuffled(inputs: dict[str, Any], order: list[int], extra: int = 0) -> dict[str, Any]:
    """The rows in another order, padded further where they have positions."""
    rows = {name: value[order] for name, value in inputs.items()}
    for name in ("input_ids", "attention_mask", "labels") if extra else ():
        if name in rows and rows[name].ndim == 2:
            rows[name] = torch.nn.functional.pad(rows[name], (0, extra), value=-100 if name == "labels" else 0)
    return rows


@pytest.mark.parametrize("name", ["classifier", "tagger", "span", "masked", "llama", "vit", "t5", "whisper", "ctc"])
@pytest.mark.parametrize("top_k", [None, 8])
def test_a_second_epoch_in_another_order_runs_no_teacher(
    tiny: Any, tmp_path: Path, name: str, top_k: int | None
) -> None:
    student, teacher = tiny.build(name).eval(), tiny.build(name, seed=1)
    counted = Counted(teacher)
    run = tiny.ByHand(Distillation(teacher, alpha=1.0, cache=True, top_k=top_k), student, tmp_path)
    inputs = tiny.batch(name)
    first = run(inputs)
    assert counted.calls == 1
    assert run.distillation.logs()["teacher_cache_hit_rate"] == 0
    torch.testing.assert_close(run(inputs), first, rtol=0, atol=0)
    extra = 3 if name in LENGTHS else 0
    second = run(shuffled(inputs, [2, 0, 3, 1], extra))
    torch.testing.assert_close(second, first, rtol=1e-4, atol=1e-6)
    assert counted.calls == 1
    assert run.distillation.logs()["teacher_cache_hit_rate"] == 1
    again = tiny.ByHand(Distillation(teacher, alpha=1.0, cache=True, top_k=top_k), student, tmp_path)
    torch.testing.assert_close(again(shuffled(inputs, [3, 2, 1, 0])), first, rtol=1e-4, atol=1e-6)
    assert counted.calls == 1, "an interrupted run goes on with what stands on disk"


def test_the_cache_changes_nothing_but_the_work(tiny: Any, tmp_path: Path) -> None:
    student, teacher = tiny.build("llama").eval(), tiny.build("llama", seed=1)
    inputs = tiny.batch("llama")
    plain, cached, few = (
        tiny.ByHand(Distillation(teacher, alpha=1.0, **options), student, tmp_path)
        for options in ({}, {"cache": True}, {"cache": True, "top_k": 100})
    )
    torch.testing.assert_close(plain(inputs), cached(inputs), rtol=0, atol=0)
    assert 0.9 < few.value(inputs) / plain.value(inputs) <= 1


def test_another_teacher_or_temperature_begins_anew(tiny: Any, tmp_path: Path) -> None:
    student, inputs = tiny.build("classifier").eval(), tiny.batch("classifier")

    def calls(seed: int, **options: Any) -> int:
        teacher = tiny.build("classifier", seed=seed)
        counted = Counted(teacher)
        run = tiny.ByHand(Distillation(teacher, cache=True, **options), student, tmp_path)
        run(inputs)
        run.finalize()
        return counted.calls

    assert calls(1) == 1
    assert calls(1) == 0
    assert calls(2) == 1
    assert calls(1, temperature=3.0) == 1
    assert calls(1, alpha=0.9) == 0
    files = list((tmp_path / "teacher").iterdir())
    assert len(files) == 3
    assert all(file.suffix == ".safetensors" for file in files)
    for file in files:
        file.write_bytes(file.read_bytes()[:20])
    assert calls(1) == 1, "a broken file is made again"


def test_processes_of_one_run_share_what_they_have_written(tmp_path: Path) -> None:
    one, other = LogitsCache(tmp_path, "f" * 64), LogitsCache(tmp_path, "f" * 64)
    one.put(["a"], [{"logits": torch.ones(2)}])
    other.put(["b"], [{"logits": torch.zeros(2)}])
    assert other.get(["a", "b"]) is None
    one.flush()
    other.flush()
    rows = other.get(["a", "b"])
    assert rows is not None
    assert [row["logits"].tolist() for row in rows] == [[1, 1], [0, 0]]
    assert LogitsCache(tmp_path, "f" * 16 + "e" * 48).get(["a"]) is None, "the whole fingerprint counts"


def test_new_rows_in_a_batch_need_the_teacher(tiny: Any, tmp_path: Path) -> None:
    student, teacher = tiny.build("classifier"), tiny.build("classifier", seed=1)
    run = tiny.ByHand(Distillation(teacher, cache=True), student, tmp_path)
    inputs = tiny.batch("classifier")
    counted = Counted(teacher)
    run({name: value[:3] for name, value in inputs.items()})
    run(inputs)
    run(inputs)
    assert counted.calls == 2
    changed = {**inputs, "input_ids": inputs["input_ids"].clone()}
    changed["input_ids"][-1, -1] += 1
    run(changed)
    assert counted.calls == 3


def test_what_the_cache_is_not_for(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="top_k is for cached logits"):
        DistillationConfig(top_k=5)
    student, teacher = tiny.build("classifier"), tiny.build("classifier", seed=1)
    counted = Counted(teacher)
    run = tiny.ByHand(Distillation(teacher, cache=True, hidden=1.0), student, tmp_path)
    run(tiny.batch("classifier"))
    run(tiny.batch("classifier"))
    assert counted.calls == 2
    assert "teacher_cache_hit_rate" not in run.distillation.logs()
    run = tiny.ByHand(Distillation(teacher, cache=True), student, tmp_path)
    inputs = tiny.batch("classifier")
    with pytest.raises(UsageError, match="'position_ids'.*does not go by 4 rows"):
        run({**inputs, "position_ids": torch.arange(12)[None]})
