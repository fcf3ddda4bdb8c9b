"""The command's own ways: what it answers, and the exit codes that a script reads."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from unittest import mock

import pytest

import leptonsdk
from leptonsdk import cli
from leptonsdk.artifact import is_artifact


def lepton(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["lepton", *map(str, arguments)])
    with mock.patch.dict(os.environ), pytest.raises(SystemExit) as end:  # it quiets libraries by their variables
        cli.main()
    return int(end.value.code or 0)


def test_the_version_needs_no_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert lepton(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"{leptonsdk.__version__}\n"


def test_only_a_gate_that_failed_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "run"
    assert lepton(monkeypatch, "run", "quickstart", "--out", out) == 4
    assert capsys.readouterr().err == f"Error: [Errno 20] Not a directory: '{out}'\n"
    assert lepton(monkeypatch, "run", "quickstart", "--out", out, "--json") == 4
    assert json.loads(capsys.readouterr().out)["exit_code"] == 4

    def broken() -> None:
        raise ZeroDivisionError("by a bug")

    monkeypatch.setattr("leptonsdk.cli.common.plugins", broken)
    assert lepton(monkeypatch, "plan", "quickstart") == 4
    assert "ZeroDivisionError: by a bug" in capsys.readouterr().err


def test_what_is_interrupted_says_whether_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def stopped() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("leptonsdk.cli.common.plugins", stopped)
    assert lepton(monkeypatch, "run", "quickstart", "--out", tmp_path) == 130
    assert capsys.readouterr().err == "Interrupted. The same command goes on where it stopped.\n"
    assert lepton(monkeypatch, "export", "a", "--out", tmp_path) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


def test_scores_and_artifacts_are_baselines_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, bert_folder: Path, tsv: Path
) -> None:
    artifact, scores = tmp_path / "onnx", tmp_path / "new" / "scores.parquet"
    assert lepton(monkeypatch, "export", bert_folder, "--out", artifact) == 0
    assert is_artifact(artifact)
    assert lepton(monkeypatch, "evaluate", artifact, "--data", tsv, "--out", scores) == 0
    condition = ("--metric", "accuracy", "--max-drop", 0.5, "--data", tsv)
    for baseline in (scores, artifact):
        assert lepton(monkeypatch, "gate", baseline, bert_folder, *condition) == 0
        assert "Verdict: pass" in capsys.readouterr().out
    assert lepton(monkeypatch, "gate", scores, scores, "--metric", "acuracy", "--max-drop", 0.5) == 2
    assert "Did you mean 'accuracy'?" in capsys.readouterr().err
    few = tmp_path / "few.parquet"
    assert lepton(monkeypatch, "evaluate", artifact, "--data", tsv, "--limit", 3, "--out", few) == 0
    assert lepton(monkeypatch, "gate", scores, few, *condition[:4]) == 2
    assert "the examples differ" in capsys.readouterr().err


def test_a_pattern_that_is_none_is_a_problem_of_the_recipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = 'steps=[{rtn: {bit_width: 8, targets: ["re:("]}}]'
    assert lepton(monkeypatch, "plan", "quickstart", "--set", steps) == 2
    assert "'re:(' is no regular expression" in capsys.readouterr().err
