"""From nothing to a plugin, in a fresh environment: what README prints, as printed, and every other kind.

The environment finds the packages of the one that runs the tests, so that nothing is downloaded. leptonsdk is installed into it
as a wheel, without its source tree, and the new plugins are: with the printed command.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import site
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
(COMMANDS,) = [
    block
    for block in re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    if "lepton plugins new" in block
]


class Fresh:
    """A virtual environment, and a folder to work in."""

    def __init__(self, folder: Path) -> None:
        self.work = folder / "work"
        self.work.mkdir()
        self._bin = folder / "venv" / "bin"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
        (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
        shared = {sysconfig.get_paths()["purelib"], *site.getsitepackages()}
        lines = [f"import site; site.addsitedir({path!r})" for path in sorted(shared)]
        (packages / "shared.pth").write_text("\n".join(lines) + "\n")
        self.run(f"python -m pip install '{ROOT}'")

    def environment(self) -> Mapping[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        return {
            **kept,
            "PATH": f"{self._bin}{os.pathsep}{os.environ['PATH']}",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it the other way round: no isolation
            "PIP_NO_DEPS": "1",
            "PIP_NO_INDEX": "1",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }

    def run(self, commands: str) -> str:
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", commands],
            cwd=self.work,
            env=dict(self.environment()),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout[-5000:]}{done.stderr[-5000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    return Fresh(tmp_path_factory.mktemp("fresh"))


def test_the_five_commands_of_the_readme_run_as_printed(fresh: Fresh) -> None:
    commands = COMMANDS.strip().splitlines()
    assert len(commands) == 5
    assert all(command.startswith("$ ") for command in commands)
    told = fresh.run("\n".join(command.removeprefix("$ ") for command in commands))
    assert re.search(r"\d+ passed", told)
    assert "failed" not in told
    where = fresh.run(
        "python -c 'import leptonsdk, leptonsdk_brief; print(leptonsdk.__file__, leptonsdk_brief.__file__)'"
    )
    assert f"{ROOT}{os.sep}" not in where, "the wheel was used, not the source tree"
    run = json.loads((fresh.work / "leptonsdk-brief" / "runs" / "first" / "run.json").read_text(encoding="utf-8"))
    assert run["verdict"] == "pass"
    assert [step["name"] for step in run["steps"] if step["name"].endswith("brief")]


KINDS = {"training": "fade", "backend": "plain", "evaluator": "nearness"}


@pytest.fixture(scope="module")
def others(fresh: Fresh) -> Fresh:
    """With a new plugin of every other kind installed."""
    fresh.run("\n".join(f"lepton plugins new {name} --kind {kind}" for kind, name in KINDS.items()))
    fresh.run(f"python -m pip install {' '.join(f'-e ./leptonsdk-{name}' for name in KINDS.values())}")
    return fresh


def test_every_other_kind_installs_is_listed_passes_its_tests_and_stands_in_its_recipe(others: Fresh) -> None:
    kinds, fresh = KINDS, others
    listed = {record["name"]: record for record in json.loads(fresh.run("lepton plugins list --json"))}
    provided = {kind: listed[name]["provides"] for kind, name in kinds.items()}
    assert provided == {
        "training": {"compressor": ["fade"]},
        "backend": {"backend": ["plain"]},
        "evaluator": {"evaluator": ["feature-extraction/nearness"]},
    }
    for name in kinds.values():
        told = fresh.run(f"cd leptonsdk-{name} && python -m pytest")
        assert re.search(r"\d+ passed", told)
        assert "failed" not in told
        planned = fresh.run(f"lepton plan leptonsdk-{name}/recipe.yaml")
        assert name in planned or "nearness" in planned


def test_every_other_kind_works_in_a_run(others: Fresh) -> None:
    """The recipe of the new training, exported to the new backend, judged by the new evaluator; on a tiny model, to be fast."""
    from leptonsdk.testing.models import tiny_checkpoint

    tiny_checkpoint("bert", task="feature-extraction").save(others.work / "tiny")
    words = "a good film of the sea was very dull and bright".split()
    rows = [{"query": " ".join(words[n % 11 :]), "passage": " ".join(words[: n % 7 + 1])} for n in range(24)]
    (others.work / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    changes = (
        "model={id: tiny, task: feature-extraction/nearness}",
        "data={train: {path: rows.jsonl}, eval: {path: rows.jsonl}}",
        "profile={turns: 5, latency: [{batch_size: 1, sequence_length: 8}]}",
        "export=[{plain: {precision: bf16}}]",
        "gate={margin: {max_drop: 1}, alignment: {max_drop: 4}, size: {min_reduction: 1.9}}",
    )
    options = " ".join(f"--set {shlex.quote(change)}" for change in changes)
    others.run(f"lepton run leptonsdk-fade/recipe.yaml --out run {options}")
    run = json.loads((others.work / "run" / "run.json").read_text(encoding="utf-8"))
    assert run["verdict"] == "pass"
    (artifact,) = run["artifacts"]
    assert (artifact["backend"], artifact["precision"]) == ("plain", "bf16")
    assert artifact["bits_per_weight"] == 16
    assert [condition["metric"] for condition in run["conditions"]][:2] == ["margin", "alignment"]
    assert [step["name"] for step in run["steps"]] == ["01-train"]
    weights = load_file(others.work / "run" / "steps" / "01-train" / "model.safetensors")
    layer = weights["encoder.layer.0.intermediate.dense.weight"]
    assert float((layer == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
