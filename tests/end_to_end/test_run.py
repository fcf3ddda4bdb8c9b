"""Whole runs: a recipe in, an artifact, scores, a verdict and a report out; resumed when killed, kept when finished."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import leptonsdk as lepton
from leptonsdk.artifact import hash_files, read_manifest
from leptonsdk.pipeline.store import read_run

SLOW_PLUGIN = """
import pathlib, time
from leptonsdk import hookimpl
from leptonsdk.hooks import Capabilities, PluginConfig, PostTrainingCompressor
class Config(PluginConfig):
    marker: str
class Slow(PostTrainingCompressor[Config]):
    name = "slow"
    config_class = Config
    capabilities = Capabilities()
    def compress(self, checkpoint, context):
        marker = pathlib.Path(self.config.marker)
        part = context.folder / "part"
        if not part.exists():
            part.write_text("half")
            marker.write_text("waiting")
            time.sleep(600)
        marker.write_text("resumed from " + part.read_text())
        return checkpoint
def log(step, what):
    with open(step.config.marker + ".log", "a") as file:
        file.write(what + "\\n")
@hookimpl
def lepton_compressors():
    return [Slow]
@hookimpl
def lepton_before_step(context, step):
    log(step, "before " + step.name)
@hookimpl
def lepton_after_step(step, result):
    log(step, "after " + type(result).__name__)
@hookimpl
def lepton_on_error(step, error):
    log(step, "error " + type(error).__name__)
"""


@pytest.fixture
def recipe(tmp_path: Path, bert_folder: Path, tsv: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    content = {
        "version": 1,
        "model": {"id": str(bert_folder)},
        "data": {"eval": {"path": str(tsv)}, "calibration": {"path": str(tsv), "limit": 16}},
        "steps": [{"rtn": {"bit_width": 8}}],
        "export": [{"onnxruntime": {"precision": "fp32"}}, {"onnxruntime": {"precision": "int8-static"}}],
        "profile": {"turns": 5, "latency": [{"batch_size": 2, "sequence_length": 8}]},
        "gate": {"accuracy": {"max_drop": 0.5}, "size": {"max_bytes": 10_000_000}},
    }
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def command(*arguments: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "leptonsdk.cli", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=400, **more)


def test_a_recipe_from_start_to_verdict_and_again(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = command("run", recipe, "--out", out)
    assert first.returncode == 0, first.stdout + first.stderr
    state = read_run(out)
    assert state["verdict"] == "pass"
    assert [entry["name"] for entry in state["steps"]] == ["01-rtn"]
    assert [entry["precision"] for entry in state["artifacts"]] == ["fp32", "int8-static"]
    assert {c["subject"] for c in state["conditions"]} == {"onnxruntime-fp32", "onnxruntime-int8-static"}
    for entry in state["artifacts"]:
        assert entry["bytes"] > 0
        assert entry["latency"][0]["median_ms"] > 0
        assert entry["memory_bytes"] is not None
        assert entry["seconds"] > 0
        assert (out / entry["scores"]).is_file()
        manifest = read_manifest(out / entry["folder"])
        assert manifest["verdict"] == "pass"
        assert manifest["sha256"] == hash_files(out / entry["folder"])
        for text in (json.dumps(manifest), (out / entry["folder"] / "leptonsdk.json").read_text()):
            assert str(tmp_path) not in text, "no path of the machine may stand in a manifest"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "onnxruntime-int8-static" in page

    before = hash_files(out)
    again = command("run", recipe, "--out", out)
    assert again.returncode == 0
    assert "Nothing to do" in again.stdout
    assert hash_files(out) == before

    stricter = command("run", recipe, "--out", out, "--set", "gate.size.max_bytes=10", "--json")
    assert stricter.returncode == 1
    answer = json.loads(stricter.stdout)
    assert answer["verdict"] == "fail"
    for name, entry in read_run(out)["work"].items():
        if name.startswith(("steps/", "artifacts/", "scores/", "profile")):
            assert entry["key"] == state["work"][name]["key"], f"{name} was done again for a change of the gate"

    (out / "artifacts/onnxruntime-fp32/onnx/model.onnx").write_bytes(b"damaged")
    repaired = command("run", recipe, "--out", out)
    assert repaired.returncode == 0, repaired.stderr
    assert lepton.Artifact.open(out / "artifacts/onnxruntime-fp32").bytes_on_disk > 100


def test_killed_in_the_middle_it_goes_on(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_plugin.py").write_text(SLOW_PLUGIN)
    info = tmp_path / "slow_plugin-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: leptonsdk-slow\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[leptonsdk]\nslow = slow_plugin\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    content = yaml.safe_load(recipe.read_text())
    marker = tmp_path / "marker"
    content |= {"steps": [{"slow": {"marker": str(marker)}}], "export": []}
    recipe.write_text(yaml.safe_dump(content))
    out = tmp_path / "run"
    words = [sys.executable, "-m", "leptonsdk.cli", "run", str(recipe), "--out", str(out)]
    running = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not marker.exists():
            assert time.monotonic() < deadline, "the step never began"
            time.sleep(0.2)
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    killed = read_run(out)["work"]
    assert killed["scores/baseline"]["state"] == "done"
    assert killed["steps/01-slow"]["state"] == "running"
    resumed = command("run", recipe, "--out", out)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "score baseline in torch (kept)" in resumed.stdout
    assert marker.read_text() == "resumed from half"
    seen = (tmp_path / "marker.log").read_text().splitlines()
    assert seen == ["before 01-slow", "before 01-slow", "after Checkpoint"], "lifecycle hooks watch every attempt"


def test_a_step_that_breaks_names_plugin_version_and_step(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SLOW_PLUGIN.replace("marker = pathlib", "raise ZeroDivisionError('oh')\n        marker = pathlib")
    (tmp_path / "broken_plugin.py").write_text(source)
    info = tmp_path / "broken_plugin-3.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: leptonsdk-broken\nVersion: 3.1\n")
    (info / "entry_points.txt").write_text("[leptonsdk]\nbroken = broken_plugin\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    content = yaml.safe_load(recipe.read_text()) | {"steps": [{"slow": {"marker": str(tmp_path / "m")}}], "export": []}
    recipe.write_text(yaml.safe_dump(content))
    done = command("run", recipe, "--out", tmp_path / "run")
    assert done.returncode == 4
    assert "step 01-slow, plugin 'slow' (leptonsdk-broken 3.1): ZeroDivisionError: oh" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "m.log").read_text() == "before 01-slow\nerror ZeroDivisionError\n"


def test_export_evaluate_and_gate_by_hand(bert_folder: Path, tsv: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "artifact"
    exported = command("export", bert_folder, "--out", artifact, "--precision", "int8", "--samples", tsv, "--json")
    assert exported.returncode == 0, exported.stderr
    assert json.loads(exported.stdout)["bytes"] > 0
    refused = command("export", bert_folder, "--out", artifact, "--precision", "int8")
    assert refused.returncode == 2
    assert "exists and is not empty" in refused.stderr
    for name, model in (("a", bert_folder), ("b", artifact)):
        scored = command("evaluate", model, "--data", tsv, "--out", tmp_path / f"{name}.parquet", "--json")
        assert scored.returncode == 0, scored.stderr
        assert json.loads(scored.stdout)["examples"] == 60
    files = (tmp_path / "a.parquet", tmp_path / "b.parquet")
    for max_drop, code in (("0.9", 0), ("0", 3)):
        judged = command("gate", *files, "--metric", "accuracy", "--max-drop", max_drop)
        assert judged.returncode == code, judged.stdout + judged.stderr
    missing = command("gate", *files, "--metric", "acuracy", "--max-drop", "0.1")
    assert missing.returncode == 2
    assert "accuracy" in missing.stderr


def test_the_plain_calls(bert_folder: Path, sentences: list[dict[str, Any]], tmp_path: Path) -> None:
    model = lepton.load_model(bert_folder)
    smaller = lepton.quantize_model(model, bit_width=8)
    lepton.save_model(smaller, tmp_path / "w8")
    code = (
        "import sys; sys.modules['leptonsdk'] = None\n"
        "import torch; from transformers import AutoModelForSequenceClassification as M\n"
        f"m = M.from_pretrained({str(tmp_path / 'w8')!r}).eval()\n"
        "x = torch.arange(4, 14)[None]\n"
        "print(m(input_ids=x, attention_mask=torch.ones_like(x)).logits.tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    import torch

    tokens = torch.arange(4, 14)[None]
    with torch.no_grad():
        expected = smaller.model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits.tolist()
    assert json.loads(done.stdout) == expected
    again = lepton.load_model(tmp_path / "w8")
    assert again.quantized.keys() == smaller.quantized.keys()
    artifact = lepton.export(model, "onnxruntime", tmp_path / "onnx", precision="fp32", samples=sentences)
    scores = [lepton.evaluate(subject, sentences) for subject in (model, artifact)]
    assert lepton.gate(*scores, {"accuracy": {"max_drop": 0.1}}).verdict == "pass"
    assert scores[1].runtime.startswith("onnxruntime ")
