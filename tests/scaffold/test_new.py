"""``lepton plugins new``: which names it takes, what it writes, and what it does not overwrite."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from leptonsdk.cli import app
from leptonsdk.errors import UsageError
from leptonsdk.hooks import HOOK_API, Plugins, load_plugins
from leptonsdk.scaffold import KINDS, new_plugin


def written(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_distribution_is_written(kind: str, tmp_path: Path) -> None:
    made = new_plugin("my-idea2", kind, Plugins(), tmp_path / "new")
    files = written(made.folder)
    assert sorted(files) == sorted(made.files)
    assert {
        ".gitignore",
        ".github/workflows/ci.yml",
        "README.md",
        "pyproject.toml",
        "recipe.yaml",
        "src/leptonsdk_my_idea2/__init__.py",
        "src/leptonsdk_my_idea2/py.typed",
        "tests/test_conformance.py",
    } <= files.keys()
    assert not any("{{" in text.replace("${{ matrix", "") or "{%" in text for text in files.values())
    project = tomllib.loads(files["pyproject.toml"])["project"]
    assert project["name"] == "leptonsdk-my-idea2"
    assert project["entry-points"]["leptonsdk"] == {"my_idea2": "leptonsdk_my_idea2"}
    assert "license" not in project  # the author's choice
    assert f"LEPTON_HOOK_API = {HOOK_API}\n" in files["src/leptonsdk_my_idea2/__init__.py"]
    assert yaml.safe_load(files[".github/workflows/ci.yml"])["jobs"]["test"]["steps"][-1]["run"].endswith("my_idea2")
    assert "my-idea2" in files["recipe.yaml"] or "my_idea2" in files["recipe.yaml"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_clean_by_its_own_rules(kind: str, tmp_path: Path) -> None:
    made = new_plugin("brief", kind, Plugins(), tmp_path / "new")
    for command in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", "."]
        done = subprocess.run(ruff, cwd=made.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("My Idea", "compressor", "not a valid name.*lower-case letters"),
        ("../idea", "compressor", "not a valid name"),
        ("2bit", "compressor", "not a valid name"),
        ("idea-", "compressor", "not a valid name"),
        ("i" * 31, "compressor", "30 at most"),
        ("leptonsdk-idea", "compressor", "leave 'leptonsdk-' out"),
        ("idea", "compresor", "no kind 'compresor' of plugin.*Did you mean 'compressor'"),
        ("train", "compressor", "leptonsdk means something else by it"),
        ("training", "training", "leptonsdk means something else by it"),  # TrainingCompressor
        ("core", "backend", r"taken by plugin core \(leptonsdk "),
        ("gptq", "backend", r"taken by plugin gptq \(leptonsdk-gptq "),
        ("movement-pruning", "training", r"taken by plugin movement_pruning \(leptonsdk-movement-pruning "),
        ("rtn", "training", r"taken by the compressor of plugin core \(leptonsdk "),
    ],
)
def test_names_are_checked(name: str, kind: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        new_plugin(name, kind, load_plugins(), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_installed_distribution_is_not_named_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "leptonsdk_idea-3.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: leptonsdk-idea\nVersion: 3.1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError, match=r"taken by leptonsdk-idea 3\.1, which is installed"):
        new_plugin("idea", "backend", Plugins(), tmp_path / "new")


def test_nothing_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "leptonsdk-idea").mkdir()
    new_plugin("idea", "compressor", Plugins())  # an empty folder is no loss
    mine = tmp_path / "leptonsdk-idea" / "README.md"
    mine.write_text("mine")
    with pytest.raises(UsageError, match="leptonsdk-idea: it is there already, and nothing is overwritten"):
        new_plugin("idea", "backend", Plugins())
    assert mine.read_text() == "mine"
    with pytest.raises(UsageError, match="nothing is overwritten"):
        new_plugin("idea", "backend", Plugins(), mine)


def test_the_command_answers_in_words_and_in_json(tmp_path: Path) -> None:
    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["plugins", "new", *arguments], catch_exceptions=True)

    told = run("idea", "--kind", "evaluator", "--out", str(tmp_path / "a"))
    assert told.exit_code == 0
    assert "Next: cd" in told.output
    answer = json.loads(run("idea", "--kind", "evaluator", "--out", str(tmp_path / "b"), "--json").output)
    assert answer["provides"] == "feature-extraction/idea"
    assert sorted(answer["files"]) == sorted(written(tmp_path / "b"))
    refused = run("Idea", "--kind", "evaluator", "--out", str(tmp_path / "c"))
    assert isinstance(refused.exception, UsageError)
    assert refused.exception.exit_code == 2
