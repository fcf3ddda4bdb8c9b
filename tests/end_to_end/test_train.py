"""Recipes that train: pruned and distilled, removed, exported, judged; killed and resumed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import TrainerState

import leptonsdk as lepton
from leptonsdk.errors import RunError
from leptonsdk.pipeline.store import read_run
from leptonsdk.training.step import _Progress

RECIPES = Path(__file__).parents[2] / "recipes"


def content(model: Path, tsv: Path, **train: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "model": {"id": str(model)},
        "data": {"train": {"path": str(tsv)}, "eval": {"path": str(tsv)}, "calibration": {"path": str(tsv)}},
        "steps": [
            {
                "train": {
                    "args": {"num_train_epochs": 1, "per_device_train_batch_size": 4, **train},
                    "with": [
                        {"movement_pruning": {"final_sparsity": 0.5, "budget": "global"}},
                        {"distillation": {"hidden": 1.0}},
                    ],
                }
            }
        ],
        "export": [{"onnxruntime": {"precision": "int8-static"}}],
        "profile": {"turns": 5, "latency": [{"batch_size": 2, "sequence_length": 8}]},
        "gate": {"accuracy": {"max_drop": 0.99}, "size": {"max_bytes": 10_000_000}},
    }


def test_the_digits_recipe_trains_removes_and_exports(tmp_path: Path) -> None:
    """The README's recipe, with fewer epochs."""
    model = tmp_path / "vit"
    made = [sys.executable, str(RECIPES / "digits_vit.py"), "--out", str(model), "--epochs", "8"]
    subprocess.run(made, check=True, capture_output=True)
    run = lepton.compress(
        RECIPES / "digits-vit-joint.yaml",
        tmp_path / "run",
        overrides=[
            f"model.id={model}",
            "steps.0.train.args.num_train_epochs=8",
            "profile.turns=5",
            "gate.accuracy.max_drop=0.1",
        ],
    )
    assert run.verdict == "pass", run.state["conditions"]
    smaller = lepton.load_model(tmp_path / "run" / "steps" / "01-train", task="image-classification")
    layer = smaller.model.vit.layers[0]
    assert layer.mlp.fc1.out_features == 64
    assert layer.attention.q_proj.out_features == 32


def test_widths_that_differ_are_exported_and_load_again(tmp_path: Path, bert_folder: Path, tsv: Path) -> None:
    run = lepton.compress(content(bert_folder, tsv), tmp_path / "run")
    assert run.verdict == "pass", run.state["conditions"]
    assert (tmp_path / "run" / "steps" / "01-train" / "leptonsdk_shapes.json").is_file()
    again = lepton.compress(content(bert_folder, tsv), tmp_path / "run")
    assert not again.worked


def test_a_quantized_model_recovers_in_training(tmp_path: Path, bert_folder: Path, tsv: Path) -> None:
    recipe = content(bert_folder, tsv)
    recovery = {
        "args": {"max_steps": 4, "learning_rate": 1e-2},
        "with": [{"distillation": {"teacher": str(bert_folder)}}, {"qat": {}}],
    }
    recipe["steps"] = [{"rtn": {"bit_width": 4, "group_size": -1}}, {"train": recovery}]
    del recipe["data"]["calibration"]  # scales of inputs come from the training
    run = lepton.compress(recipe, tmp_path / "run")
    assert run.verdict == "pass", run.state["conditions"]
    rounded, recovered = (lepton.load_model(tmp_path / "run" / "steps" / n) for n in ("01-rtn", "02-train"))
    assert not rounded.input_scales
    assert recovered.input_scales
    for name, tensor in rounded.quantized.items():
        assert recovered.quantized[name].scheme == tensor.scheme
        assert not torch.equal(recovered.quantized[name].integers, tensor.integers)


@pytest.mark.parametrize("part", [{"distillation": {}}, {"qat": {}}], ids=["distillation", "qat"])
def test_recovery_after_a_sparse_step_keeps_its_zeros(
    tmp_path: Path, bert_folder: Path, tsv: Path, part: dict[str, Any]
) -> None:
    recipe = content(bert_folder, tsv)
    recovery = {"args": {"max_steps": 3, "learning_rate": 1e-2}, "with": [part]}
    recipe["steps"] = [{"wanda": {"sparsity": 0.5}}, {"train": recovery}]
    for unasked in ("export", "profile", "gate"):
        del recipe[unasked]
    lepton.compress(recipe, tmp_path / "run")
    sparse, recovered = (
        dict(lepton.load_model(tmp_path / "run" / "steps" / name).model.named_parameters())
        for name in ("01-wanda", "02-train")
    )
    cut = [name for name, weight in sparse.items() if weight.ndim == 2 and float((weight == 0).float().mean()) > 0.4]
    assert len(cut) >= 12
    for name in cut:
        assert not torch.equal(recovered[name], sparse[name]), "it was trained"
        assert not bool(recovered[name][sparse[name] == 0].any()), name
        if "distillation" in part:
            assert torch.equal(recovered[name] == 0, sparse[name] == 0), name


def test_a_killed_training_goes_on(tmp_path: Path, bert_folder: Path, tsv: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(content(bert_folder, tsv, num_train_epochs=40, save_steps=5)), encoding="utf-8")
    command = [sys.executable, "-m", "leptonsdk.cli", "run", str(recipe), "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "run").rglob("checkpoint-*/trainer_state.json")):
            assert time.monotonic() < deadline, "no checkpoint was written"
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    state = read_run(tmp_path / "run")
    assert state is not None
    assert state["verdict"] == "pass"


@pytest.mark.parametrize("written", [None, '{"epoch": 1'])
def test_a_training_that_was_cut_while_it_wrote_a_checkpoint_goes_on_from_the_one_before(
    written: str | None, tmp_path: Path, bert_folder: Path, tsv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = content(bert_folder, tsv, max_steps=6, save_steps=2)
    for unasked in ("export", "gate"):
        del recipe[unasked]
    whole = TrainerState.save_to_json

    def cut(state: TrainerState, path: str) -> None:
        if state.global_step == 4:
            if written is not None:
                Path(path).write_text(written, encoding="utf-8")
            raise OSError("No space left on device")
        whole(state, path)

    monkeypatch.setattr(TrainerState, "save_to_json", cut)
    with pytest.raises(RunError, match="No space left"):
        lepton.compress(recipe, tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").rglob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
    monkeypatch.setattr(TrainerState, "save_to_json", whole)
    begun: list[int] = []

    def note(self: Any, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        begun.append(state.global_step)

    monkeypatch.setattr(_Progress, "on_step_begin", note)
    lepton.compress(recipe, tmp_path / "run")
    assert begun == [2, 3, 4, 5]


_KILLED = """
import os, signal, sys
import leptonsdk
from leptonsdk.training import step

class Killed(step._Progress):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)

step._Progress = Killed
leptonsdk.compress(sys.argv[1], sys.argv[2])
"""


def test_a_killed_training_ends_with_the_weights_of_an_undisturbed_one(
    tmp_path: Path, bert_folder: Path, tsv: Path
) -> None:
    """Killed at a drawn step, with pruning, a teacher whose logits are cached, rounding, and the model's dropout, in one run."""
    seed = int(os.environ.get("LEPTONSDK_TEST_SEED", "0"))
    step = random.Random(seed).randrange(3, 14)
    print(f"seed {seed}: killed before step {step}")
    parts = [
        {"movement_pruning": {"final_sparsity": 0.5}},
        {"distillation": {"cache": True}},
        {"qat": {"start": 0.3}},
    ]
    recipe = content(bert_folder, tsv, max_steps=14, save_steps=2, learning_rate=1e-2)
    recipe["steps"][0]["train"]["with"] = parts
    for unasked in ("export", "gate"):
        del recipe[unasked]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")

    def run(*command: str) -> int:
        settings = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, check=False, timeout=400, env=settings
        )
        assert done.returncode in (0, -signal.SIGKILL), done.stdout + done.stderr
        return done.returncode

    def whole(out: str) -> int:
        return run("-m", "leptonsdk.cli", "run", str(path), "--out", str(tmp_path / out))

    assert whole("whole") == 0
    assert run("-c", _KILLED, str(path), str(tmp_path / "killed"), str(step)) == -signal.SIGKILL
    saved = [int(found.name.partition("-")[2]) for found in (tmp_path / "killed").rglob("checkpoint-*")]
    assert max(saved) in (step, step - 1), "it does not begin anew"
    assert whole("killed") == 0
    ones, others = (
        load_file(tmp_path / out / "steps" / "01-train" / "model.safetensors") for out in ("whole", "killed")
    )
    assert ones.keys() == others.keys()
    for name, tensor in ones.items():
        assert torch.equal(tensor, others[name]), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"args": {"num_train_epoch": 1}}, "has no 'num_train_epoch'.*num_train_epochs"),
        ({"args": {"output_dir": "x"}}, "'output_dir' is for the run to decide"),
        ({"with": [{"rtn": {"bit_width": 8}}]}, "does not act inside a training run"),
        ({"with": [{"movement_prunning": {}}]}, "no compressor named 'movement_prunning'.*movement_pruning"),
        ({"with": [{"movement_pruning": {"final_sparsity": 2}}]}, "less than 1"),
        ({"wiht": []}, "unknown key 'wiht'"),
    ],
)
def test_wrong_training_steps_are_named(
    tmp_path: Path, bert_folder: Path, tsv: Path, change: dict[str, Any], message: str
) -> None:
    recipe = content(bert_folder, tsv)
    recipe["steps"][0]["train"].update(change)
    with pytest.raises(lepton.RecipeError, match=f"(?s){message}"):
        lepton.plan(recipe)


def test_training_needs_data_and_floats(bert_folder: Path, tsv: Path) -> None:
    recipe = content(bert_folder, tsv)
    del recipe["data"]["train"]
    recipe["steps"].insert(0, {"rtn": {"bit_width": 8}})
    recipe["steps"].append({"movement_pruning": {"final_sparsity": 0.5}})
    with pytest.raises(lepton.RecipeError) as caught:
        lepton.plan(recipe)
    found = "\n".join(map(str, caught.value.problems))
    assert "it needs training data" in found
    assert "quantized weights cannot be trained" in found
    assert "it acts inside a training run" in found
