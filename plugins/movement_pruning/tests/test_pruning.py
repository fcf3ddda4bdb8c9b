"""Pruning in a Trainer: what is masked is removed, and nothing else changes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from leptonsdk_movement_pruning import MovementPruning
from pydantic import ValidationError

from leptonsdk.errors import UsageError
from leptonsdk.training import CompressionTrainer

NAMES = ["bert", "roberta", "distilbert", "vit", "llama", "whisper"]


def run(tiny: Any, name: str, folder: Path, pruning: MovementPruning, **more: Any) -> CompressionTrainer:
    trainer = CompressionTrainer(
        tiny.build(name), tiny.arguments(folder, **more), train_dataset=tiny.rows(name), compression=[pruning]
    )
    trainer.train()
    return trainer


def zeros(model: Any) -> float:
    weights = [m.weight for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "classifier" not in n]
    weights = [w for w in weights if w is not getattr(model.get_output_embeddings(), "weight", None)]
    return float(sum((w == 0).sum() for w in weights) / sum(w.numel() for w in weights))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_masked_is_removed_and_the_outputs_stay(tiny: Any, name: str, tmp_path: Path) -> None:
    trainer = run(
        tiny, name, tmp_path, MovementPruning(structure=("heads", "ffn"), final_sparsity={"heads": 0.5, "ffn": 0.75})
    )
    masked = tiny.outputs(name, trainer.model)
    dense = sum(p.numel() for p in tiny.build(name).parameters())
    assert trainer.state.log_history[-2]["ffn_sparsity"] == pytest.approx(0.75)
    model = trainer.finalize()
    assert torch.allclose(tiny.outputs(name, model), masked, atol=1e-5)
    assert sum(p.numel() for p in model.parameters()) < 0.75 * dense
    assert all(type(m).__module__.split(".")[0] in ("torch", "transformers") for m in model.modules())
    assert not [key for key in model.state_dict() if "scores" in key or "threshold" in key]


@pytest.mark.parametrize("method", ["magnitude", "l1", "movement", "soft_movement"])
@pytest.mark.parametrize("structure", ["unstructured", "block", "rows", "columns"])
def test_every_method_reaches_its_sparsity(tiny: Any, tmp_path: Path, method: str, structure: str) -> None:
    pruning = MovementPruning(method=method, structure=structure, final_sparsity=0.5, block_shape=(8, 8))
    trainer = run(tiny, "bert", tmp_path, pruning, max_steps=10)
    assert pruning.logs()["sparsity"] == pytest.approx(0.5, abs=0.02)
    masked = tiny.outputs("bert", trainer.model)
    model = trainer.finalize()
    assert torch.allclose(tiny.outputs("bert", model), masked, atol=1e-5)
    # Where all of a head or neuron is masked, it is removed, and its zeros with it.
    assert 0.2 < zeros(model) < 0.52


def test_a_uniform_llama_loads_with_plain_transformers(tiny: Any, tmp_path: Path) -> None:
    model = run(tiny, "llama", tmp_path, MovementPruning(final_sparsity=0.5)).finalize()
    model.save_pretrained(tmp_path / "saved")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert again.config.intermediate_size == 32
    assert again.config.num_key_value_heads == 1
    assert torch.equal(tiny.outputs("llama", again), tiny.outputs("llama", model))


def test_a_global_budget_lets_layers_differ_but_none_goes_empty(tiny: Any, tmp_path: Path) -> None:
    pruning = MovementPruning(final_sparsity=0.9, budget="global", round_to=8)
    trainer = run(tiny, "bert", tmp_path, pruning)
    masked = tiny.outputs("bert", trainer.model)
    model = trainer.finalize()
    widths = [layer.intermediate.dense.out_features for layer in model.bert.encoder.layer]
    heads = [layer.attention.self.query.out_features // 8 for layer in model.bert.encoder.layer]
    assert min(heads) >= 1
    assert all(width % 8 == 0 and width >= 8 for width in widths)
    assert torch.allclose(tiny.outputs("bert", model), masked, atol=1e-5)


def test_learnt_scores_are_trained_at_their_own_rate(tiny: Any, tmp_path: Path) -> None:
    pruning = MovementPruning(final_sparsity=0.5, score_learning_rate=0.123)
    trainer = run(tiny, "bert", tmp_path, pruning, lr_scheduler_type="constant")
    assert [group["lr"] for group in trainer.optimizer.param_groups][-1] == 0.123
    assert all(float(masked.mask.scores.detach().abs().max()) > 0 for masked in pruning.pruning.masked)


def test_the_embeddings_and_heads_of_classifiers_are_left(tiny: Any, tmp_path: Path) -> None:
    pruning = MovementPruning(structure="unstructured", final_sparsity=0.5)
    model = tiny.build("llama")
    pruning.prepare(model, None)
    assert {masked.name.rpartition(".")[2] for masked in pruning.pruning.masked} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }


@pytest.mark.parametrize("name", ["bert", "vit"])  # ViT's weights have other names on disk than in memory
def test_a_resumed_run_keeps_its_masks(tiny: Any, tmp_path: Path, name: str) -> None:
    options = {"save_strategy": "steps", "save_steps": 3, "max_steps": 8}
    whole = run(tiny, name, tmp_path / "a", MovementPruning(final_sparsity=0.5), **options).finalize()
    args = tiny.arguments(tmp_path / "a", **options)
    again = CompressionTrainer(
        tiny.build(name, seed=7),
        args,
        train_dataset=tiny.rows(name),
        compression=[MovementPruning(final_sparsity=0.5)],
    )
    again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-6"))
    for key, value in again.finalize().state_dict().items():
        assert torch.equal(value, whole.state_dict()[key]), key


def test_bad_choices_are_named(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="only heads, ffn and layers go together"):
        MovementPruning(structure=("heads", "block"), final_sparsity=0.5)
    with pytest.raises(ValidationError, match="must name heads, ffn"):
        MovementPruning(final_sparsity={"heads": 0.5})
    with pytest.raises(ValidationError, match="no steps to prune"):
        MovementPruning(final_sparsity=0.5, warmup=0.5, cooldown=0.5)
    for method in ("movement", "magnitude"):
        with pytest.raises(ValidationError, match=f"{method} has no penalty"):
            MovementPruning(final_sparsity=0.5, method=method, regularization=1.0)
    with pytest.raises(UsageError, match="do not divide its weight"):
        MovementPruning(structure="block", final_sparsity=0.5, block_shape=(24, 8)).prepare(tiny.build("bert"), None)
    with pytest.raises(UsageError, match="no layer is left to prune"):
        MovementPruning(structure="unstructured", final_sparsity=0.5, targets=("nothing",)).prepare(
            copy.deepcopy(tiny.build("bert")), None
        )


@pytest.mark.parametrize("method", ["movement", "soft_movement"])
def test_scores_that_start_at_the_weights_sizes_cut_small_weights_first(tiny: Any, method: str) -> None:
    pruning = MovementPruning(method=method, structure="unstructured", final_sparsity=0.5, initial_scores=10.0)
    model = tiny.build("bert")
    pruning.prepare(model, None)
    pruning.pruning.cut({"unstructured": 0.5}, exact=True)
    for masked in pruning.pruning.masked:
        assert torch.allclose(masked.scores(), 10 * masked.weight.detach().abs())
        kept = masked.mask.kept.bool()
        assert masked.weight.detach().abs()[kept].min() >= masked.weight.detach().abs()[~kept].max()


def test_the_penalty_on_scores_is_felt_by_single_weights() -> None:
    """A mean over millions of scores: the paper's code has 400 there."""
    assert (
        MovementPruning(
            method="soft_movement", structure="unstructured", final_sparsity=0.5
        ).config.resolved_regularization
        == 400
    )
    assert MovementPruning(method="soft_movement", final_sparsity=0.5).config.resolved_regularization == 1


def test_soft_movement_lowers_scores_that_the_loss_does_not_hold(tiny: Any) -> None:
    pruning = MovementPruning(method="soft_movement", structure="unstructured", final_sparsity=0.5, regularization=2.0)
    pruning.prepare(tiny.build("bert"), None)
    penalty = pruning.pruning.penalty()
    penalty.backward()
    scores = pruning.pruning.scores()
    assert penalty.item() == pytest.approx(1.0)  # twice the sigmoid of 0
    assert float(torch.cat([s.grad.flatten() for s in scores]).sum()) == pytest.approx(0.5, rel=1e-3)


def test_initial_scores_are_for_scores_that_are_learnt() -> None:
    with pytest.raises(ValidationError, match="initial_scores is for scores"):
        MovementPruning(method="magnitude", structure="unstructured", final_sparsity=0.5, initial_scores=10.0)
