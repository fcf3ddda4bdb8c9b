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
from leptonsdk.training import CompressionTrainerMixin


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
    # The penalty of soft movement is 1 * sigmoid(0) at the start.
    assert first["loss"] == pytest.approx(0.5 * losses[0] + 0.5 * first["distillation_loss"] + 0.5, abs=1e-3)
    smaller = trainer.finalize()
    assert smaller.num_parameters() < lepton.load_model(bert_folder).model.num_parameters()
