"""A whole run: evaluated by reference, judged, not timed."""

from __future__ import annotations

import json
import sys

import pytest
import torch
import transformers

import leptonsdk as lepton
from leptonsdk.errors import EvaluationError
from leptonsdk.evaluation.timing import Target, measure
from leptonsdk.hooks import load_plugins

pytestmark = [
    pytest.mark.skipif(sys.platform == "darwin", reason="Core ML itself runs there"),
    pytest.mark.skipif("coreml" not in load_plugins().names("backend"), reason="the plugin is not installed"),
]


def test_a_run_says_what_computed_and_times_nothing(tmp_path):
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        image_size=8, patch_size=4, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        num_labels=10,
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "model")
    size = {"height": 8, "width": 8}
    transformers.ViTImageProcessorPil(do_resize=False, size=size).save_pretrained(tmp_path / "model")
    recipe = {
        "version": 1,
        "model": {"id": str(tmp_path / "model"), "task": "image-classification"},
        "data": {"eval": {"path": "digits", "split": "test", "limit": 64}},
        "export": [{"coreml": {"precision": "int8"}}],
        "profile": {"turns": 5, "latency": [{"batch_size": 1}]},
        "gate": {"accuracy": {"max_drop": 0.9}, "size": {"min_reduction": 1.1}},
    }
    run = lepton.compress(recipe, tmp_path / "run")
    state = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
    (artifact,) = state["artifacts"]
    assert "reference evaluation, not executed by Core ML" in artifact["runtime"]
    assert artifact["latency"] == []
    assert artifact["memory_bytes"] is None
    assert len(state["baseline"]["latency"]) == 1
    assert {condition["metric"] for condition in state["conditions"]} == {"accuracy", "size"}
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "not measured" in page
    assert "reference evaluation, not executed by Core ML" in page
    target = Target("a", "artifact", str(run.folder / "artifacts" / artifact["name"]), "image-classification")
    with pytest.raises(EvaluationError, match="cannot be timed on this system"):
        measure([target], {(1, None): {"pixel_values": torch.zeros(1, 3, 8, 8)}}, threads=1, turns=1)
