"""Several compressors in one Trainer run, in the ways in which Trainers are used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from leptonsdk_distillation import Distillation
from leptonsdk_movement_pruning import MovementPruning

import leptonsdk as lepton
from leptonsdk.training import CompressionTrainer, CompressionTrainerMixin


def arguments(folder: Path, **more: Any) -> Any:
    options = {"max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "logging_steps": 1}
    own = {"save_strategy": "no", "report_to": [], "use_cpu": True, "disable_tqdm": True}
    return transformers.TrainingArguments(output_dir=str(folder), **{**options, **own, **more})


def rows(*, labels: bool = True) -> list[dict[str, Any]]:
    ids = torch.randint(4, 24, (16, 8), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, **({"labels": int(row[0] % 2)} if labels else {})} for row in ids]


def compression() -> list[Any]:
    return [MovementPruning(final_sparsity=0.5, method="soft_movement"), Distillation(alpha=0.5, temperature=3.0)]


def test_a_contrastive_trainer_is_pruned_and_distilled(tmp_path: Path, bert_folder: Path) -> None:
    losses: list[float] = []

    class SimCSE(transformers.Trainer):
        """Each row's nearest is itself under another dropout (arXiv 2104.08821): no labels."""

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            outputs, again = model(**inputs), model(**inputs)
            distances = torch.cdist(outputs.logits, again.logits)
            loss = torch.nn.functional.cross_entropy(-distances, torch.arange(len(distances)))
            losses.append(float(loss.detach()))
            return (loss, outputs) if return_outputs else loss

    class Mine(CompressionTrainerMixin, SimCSE):
        pass

    model = lepton.load_model(bert_folder).model
    args = arguments(tmp_path, remove_unused_columns=False)
    trainer = Mine(model, args, train_dataset=rows(labels=False), compression=compression())
    trainer.train()
    first = trainer.state.log_history[0]
    assert len(losses) == 4
    assert losses[0] > 1
    assert first["task_loss"] == pytest.approx(losses[0], abs=1e-4)
    # The penalty of soft movement is 1 * sigmoid(0) at the start.
    assert first["loss"] == pytest.approx(0.5 * losses[0] + 0.5 * first["distillation_loss"] + 0.5, abs=1e-3)
    smaller = trainer.finalize()
    assert smaller.num_parameters() < lepton.load_model(bert_folder).model.num_parameters()


def trained(folder: Path, model: Path, parts: Any = None, **more: Any) -> list[dict[str, float]]:
    """What a run logs at each step."""
    trainer = CompressionTrainer(
        lepton.load_model(model).model,
        arguments(folder, **more),
        train_dataset=rows(),
        compression=parts or compression(),
    )
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def test_every_part_of_the_loss_is_logged(tmp_path: Path, bert_folder: Path) -> None:
    for parts in (
        [
            MovementPruning(final_sparsity=0.5, method="soft_movement", score_learning_rate=1e-4),
            Distillation(temperature=3.0),
        ],
        [MovementPruning(final_sparsity=0.5, method="l1", regularization=1e-4), Distillation(temperature=3.0)],
    ):
        for entry in trained(tmp_path, bert_folder, parts):
            assert entry["temperature"] == 3.0
            assert entry["penalty"] > 0
            total = 0.5 * entry["task_loss"] + 0.5 * entry["distillation_loss"] + entry["penalty"]
            # The penalty is that after the step, which has moved the weights a little.
            assert entry["loss"] == pytest.approx(total, abs=2e-3)
    plain = trained(tmp_path, bert_folder, [MovementPruning(final_sparsity=0.5)])
    assert "heads_sparsity" in plain[0]
    assert "penalty" not in plain[0]


def test_autocast_to_halves_trains_as_floats_do(tmp_path: Path, bert_folder: Path) -> None:
    floats, halves = (trained(tmp_path, bert_folder, bf16=half) for half in (False, True))
    assert len(halves) == 4
    for one, other in zip(floats, halves, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=0.05)
    assert floats[-1]["ffn_sparsity"] == halves[-1]["ffn_sparsity"] == pytest.approx(0.5, abs=0.02)
    assert [entry["loss"] for entry in floats] != [entry["loss"] for entry in halves]


def test_gradient_checkpointing_changes_no_loss(tmp_path: Path, bert_folder: Path) -> None:
    """Dropout is on: what is computed again in the backward draws the same."""
    plain, again = (trained(tmp_path, bert_folder, gradient_checkpointing=use) for use in (False, True))
    for one, other in zip(plain, again, strict=True):
        for name in ("loss", "grad_norm", "distillation_loss", "task_loss", "penalty"):
            assert one[name] == pytest.approx(other[name], abs=1e-4), name
