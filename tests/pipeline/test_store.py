"""The run folder: nothing half-written is taken for whole, nothing is done twice, nothing of someone else's is touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from leptonsdk.errors import RunError, UsageError
from leptonsdk.pipeline.store import RunStore, key_of, read_run


class Work:
    """Writes a file, counts how often it was called, and may break on the way."""

    def __init__(self, text: str = "x", breaks: bool = False) -> None:
        self.text, self.breaks, self.calls = text, breaks, 0

    def __call__(self, folder: Path) -> dict[str, Any]:
        self.calls += 1
        (folder / "a.txt").write_text(self.text)
        if self.breaks:
            raise KeyboardInterrupt
        (folder / "sub").mkdir()
        (folder / "sub" / "b.txt").write_text(self.text * 2)
        return {"length": len(self.text)}


def test_the_same_key_is_not_done_twice_another_key_is(tmp_path: Path) -> None:
    work = Work()
    for _ in range(3):
        with RunStore(tmp_path / "run") as store:
            assert store.do("steps/a", "key", work) == {"length": 1}
    assert work.calls == 1
    with RunStore(tmp_path / "run") as store:
        store.do("steps/a", "other key", Work("yy"))
    assert (tmp_path / "run/steps/a/a.txt").read_text() == "yy"


def test_work_that_broke_leaves_what_was_there_and_is_done_again(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.do("a", "1", Work("old"))
    with RunStore(tmp_path) as store, pytest.raises(KeyboardInterrupt):
        store.do("a", "2", Work("new", breaks=True))
    assert (tmp_path / "a/a.txt").read_text() == "old"
    assert read_run(tmp_path)["work"]["a"]["state"] == "failed"
    with RunStore(tmp_path) as store:
        assert store.finished("a", "1") is None
        assert store.finished("a", "2") is None
        store.do("a", "2", Work("new"))
    assert (tmp_path / "a/a.txt").read_text() == "new"


@pytest.mark.parametrize("harm", ["change", "remove", "add"])
def test_files_that_are_not_as_they_were_left_are_made_again(tmp_path: Path, harm: str) -> None:
    with RunStore(tmp_path) as store:
        store.do("a", "1", Work())
    if harm == "change":
        (tmp_path / "a/sub/b.txt").write_text("xy")
    elif harm == "remove":
        (tmp_path / "a/a.txt").unlink()
    else:
        (tmp_path / "a/c.txt").write_text("")
    again = Work()
    with RunStore(tmp_path) as store:
        store.do("a", "1", again)
    assert again.calls == 1
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["a.txt", "sub"]


def test_scratch_is_kept_until_the_step_is_done(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        (store.scratch("1") / "block-1").write_text("done")
        with pytest.raises(KeyboardInterrupt):
            store.do("a", "1", Work(breaks=True))
    with RunStore(tmp_path) as store:
        assert list(store.scratch("2").iterdir()) == []  # of other settings
        assert (store.scratch("1") / "block-1").read_text() == "done"
        store.do("a", "1", Work())
        assert list(store.scratch("1").iterdir()) == []


def test_a_folder_that_is_no_run_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty and holds no run"), RunStore(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]
    with pytest.raises(UsageError, match="a file of that name"), RunStore(tmp_path / "precious.txt"):
        pass


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with RunStore(tmp_path), pytest.raises(RunError, match="another process"), RunStore(tmp_path):
        pass


def test_a_damaged_or_newer_run_file_is_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    for text, message in (("{", "not valid JSON"), (json.dumps({"schema": 99}), "run schema 99")):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(RunError, match=message), RunStore(tmp_path):
            pass
        assert (tmp_path / "run.json").read_text() == text


def test_a_key_depends_on_everything_and_not_on_order() -> None:
    assert key_of(a=1, b={"x": 1, "y": 2}) == key_of(b={"y": 2, "x": 1}, a=1)
    assert len({key_of(a=1), key_of(a=2), key_of(a="1"), key_of(b=1), key_of(a=None)}) == 5
