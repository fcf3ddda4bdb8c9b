"""Whole blocks: skipped while training by a learnt gate, dropped at the end."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from leptonsdk_movement_pruning import MovementPruning
from pydantic import ValidationError

from leptonsdk.errors import UsageError
from leptonsdk.hooks import StepContext
from leptonsdk.structure import deepest_stacks
from leptonsdk.training import CompressionTrainer


def run(tiny: Any, name: str, folder: Path, pruning: MovementPruning, seed: int = 0, **more: Any) -> CompressionTrainer:
    trainer = CompressionTrainer(
        tiny.build(name, seed, layers=4),
        tiny.arguments(folder, **more),
        train_dataset=tiny.rows(name),
        compression=[pruning],
    )
    trainer.train()
    return trainer


def depths(model: Any) -> list[int]:
    parts = ("encoder", "decoder") if model.config.is_encoder_decoder else (None,)
    return [len(stack) for part in parts for stack in deepest_stacks(model, part).values()]


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "vit", "llama", "whisper", "t5"])
def test_what_is_skipped_is_dropped_and_the_outputs_stay(tiny: Any, name: str, tmp_path: Path) -> None:
    pruning = MovementPruning(structure="layers", final_sparsity=0.5)
    trainer = run(tiny, name, tmp_path, pruning)
    masked = tiny.outputs(name, trainer.model)
    assert trainer.state.log_history[-2]["sparsity"] == 0.5
    model = trainer.finalize()
    assert not torch.allclose(tiny.outputs(name, tiny.build(name, layers=4)), masked, atol=1e-3)
    assert torch.allclose(tiny.outputs(name, model), masked, atol=1e-5)
    assert set(depths(model)) == {2}
    assert not [key for key in model.state_dict() if "gate." in key and "pruning" in key]
    assert not any(module._forward_hooks for stack in deepest_stacks(model).values() for module in stack)
    model.save_pretrained(tmp_path / "saved")
    again = type(model).from_pretrained(tmp_path / "saved")
    assert set(depths(again)) == {2}
    assert torch.equal(tiny.outputs(name, again), tiny.outputs(name, model))


@pytest.mark.parametrize("name", ["bert", "llama", "whisper"])
def test_blocks_go_together_with_heads_and_neurons(tiny: Any, name: str, tmp_path: Path) -> None:
    pruning = MovementPruning(
        structure=("layers", "heads", "ffn"), final_sparsity={"layers": 0.25, "heads": 0.5, "ffn": 0.75}
    )
    trainer = run(tiny, name, tmp_path, pruning)
    masked = tiny.outputs(name, trainer.model)
    logs = trainer.state.log_history[-2]
    assert [logs[f"{what}_sparsity"] for what in ("layers", "heads", "ffn")] == pytest.approx([0.25, 0.5, 0.75])
    model = trainer.finalize()
    assert torch.allclose(tiny.outputs(name, model), masked, atol=1e-5)
    assert set(depths(model)) == {3}
    if name == "llama":
        model.save_pretrained(tmp_path / "saved")
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
        assert (again.config.num_hidden_layers, again.config.intermediate_size) == (3, 16)
        assert torch.equal(tiny.outputs(name, again), tiny.outputs(name, model))


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_a_gate_is_one_or_nought_and_its_gradient_what_the_block_adds(tiny: Any, name: str) -> None:
    model = tiny.build(name, layers=3)
    whole = tiny.outputs(name, model)
    pruning = MovementPruning(structure="layers", final_sparsity=0.34)
    pruning.prepare(model, StepContext(seed=0, folder=Path()))
    (stack,) = pruning.pruning.blocks.stacks
    assert torch.equal(tiny.outputs(name, model), whole), "open gates change nothing"
    block, gate = next(iter(deepest_stacks(model).values()))[1], stack.gates[1]
    seen: dict[str, torch.Tensor] = {}

    def keep(module: Any, args: Any, output: Any) -> None:
        seen["in"], seen["out"] = args[0], output if isinstance(output, torch.Tensor) else output[0]
        seen["out"].retain_grad()

    for shut in (False, True):
        model.zero_grad()
        gate.cut(gate.scores, torch.tensor(float("inf") if shut else 0.0))
        handle = block.register_forward_hook(keep)  # after the gate's own
        model(**{"input_ids": tiny.rows(name, 1)[0]["input_ids"][None]}).logits.square().sum().backward()
        handle.remove()
        assert torch.equal(seen["out"], seen["in"]) == shut
        if not shut:
            expected = (seen["out"].grad * (seen["out"] - seen["in"])).sum()
            assert torch.allclose(gate.scores.grad.sum(), expected, rtol=1e-4)
        assert float(gate.scores.grad.abs()) > 0, "a shut gate goes on learning, so that it may open again"
    again = copy.deepcopy(model)
    assert torch.equal(tiny.outputs(name, again), tiny.outputs(name, model)), "a copy has its own gates, as they are"
    gate.cut(gate.scores, torch.tensor(0.0))
    assert not torch.equal(tiny.outputs(name, again), tiny.outputs(name, model))


def test_a_first_block_that_serves_all_others_stays(tiny: Any, tmp_path: Path) -> None:
    pruning = MovementPruning(structure="layers", final_sparsity=0.9)
    model = run(tiny, "t5", tmp_path, pruning).finalize()
    assert depths(model) == [1, 1]
    assert all("relative_attention_bias" in "".join(stack.state_dict()) for stack in deepest_stacks(model).values())


@pytest.mark.parametrize("name", ["bert", "vit"])  # ViT's weights have other names on disk than in memory
def test_a_resumed_run_keeps_its_gates(tiny: Any, tmp_path: Path, name: str) -> None:
    options = {"save_strategy": "steps", "save_steps": 3, "max_steps": 8}
    pruning = {"structure": "layers", "final_sparsity": 0.5}
    whole = run(tiny, name, tmp_path / "a", MovementPruning(**pruning), **options).finalize()
    again = CompressionTrainer(
        tiny.build(name, seed=7, layers=4),
        tiny.arguments(tmp_path / "a", **options),
        train_dataset=tiny.rows(name),
        compression=[MovementPruning(**pruning)],
    )
    again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-6"))
    model = again.finalize()
    assert model.state_dict().keys() == whole.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(value, whole.state_dict()[key]), key


def test_scores_are_trained_at_their_own_rate_under_gradient_checkpointing(tiny: Any, tmp_path: Path) -> None:
    pruning = MovementPruning(structure="layers", final_sparsity=0.5, score_learning_rate=0.123)
    options = {"lr_scheduler_type": "constant", "gradient_checkpointing": True, "max_steps": 3}
    trainer = run(tiny, "bert", tmp_path, pruning, **options)
    assert [group["lr"] for group in trainer.optimizer.param_groups][-1] == 0.123
    assert all(float(score.detach().abs()) > 0.1 for score in pruning.pruning.scores())


SCRIPT = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
import conftest as kit
from leptonsdk.training import CompressionTrainer
from leptonsdk_movement_pruning import MovementPruning

torch.set_num_threads(1)
pruning = MovementPruning(structure="layers", final_sparsity=0.5)
args = kit.arguments(Path(sys.argv[2]), max_steps=8)
trainer = CompressionTrainer(kit.build("bert", layers=4), args, train_dataset=kit.rows("bert"), compression=[pruning])
trainer.train()
assert trainer.accelerator.num_processes == 2
shut = torch.tensor([float(i in pruning.pruning.blocks.stacks[0].shut) for i in range(4)])
everywhere = trainer.accelerator.gather(shut).reshape(2, 4)
assert everywhere.sum() == 4 and torch.equal(everywhere[0], everywhere[1])
assert trainer.finalize().config.num_hidden_layers == 2
"""


def test_two_processes_drop_the_same_blocks(tiny: Any, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    kit = Path(tiny.build.__code__.co_filename).parent
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
            *(str(script), str(kit), str(tmp_path / "run")),
        ],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_bad_choices_are_named(tiny: Any) -> None:
    with pytest.raises(ValidationError, match="no weight whose size magnitude could take"):
        MovementPruning(structure="layers", final_sparsity=0.5, method="magnitude")
    with pytest.raises(ValidationError, match="only heads, ffn and layers go together"):
        MovementPruning(structure=("layers", "block"), final_sparsity=0.5)
    with pytest.raises(UsageError, match=r"share of 0.1 of 4 blocks is none"):
        MovementPruning(structure="layers", final_sparsity=0.1).prepare(tiny.build("bert", layers=4), None)
