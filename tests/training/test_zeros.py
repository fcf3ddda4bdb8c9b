"""Zeros of a pruned model stay through a training, and the rest of it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from leptonsdk_distillation import Distillation
from leptonsdk_movement_pruning import MovementPruning
from leptonsdk_qat import QuantizationAwareTraining
from torch import nn

from leptonsdk.training import CompressionTrainer


def pruned(kit: Any, seed: int = 0) -> Any:
    """A classifier with zeros at half of the weights of its linear layers."""
    model = kit.classifier(seed)
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            weight = layer.weight.data
            weight[weight.abs() < weight.abs().median()] = 0
    return model


def train(kit: Any, folder: Path, model: Any, compression: Any, **more: Any) -> CompressionTrainer:
    resume = more.pop("resume", None)
    keep_zeros = more.pop("keep_zeros", True)
    args = kit.arguments(folder, **{"weight_decay": 0.1, **more})
    trainer = CompressionTrainer(
        model, args, train_dataset=kit.rows(16), compression=compression, keep_zeros=keep_zeros
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def zeros(model: Any) -> dict[str, torch.Tensor]:
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return {name: layer.weight.detach() == 0 for name, layer in layers.items()}


COMPRESSION = {
    "none": lambda: [],
    "distillation": lambda: [Distillation(hidden=1.0)],
    "qat": lambda: [QuantizationAwareTraining(start=0.0)],
    "pruning": lambda: [MovementPruning(structure="unstructured", final_sparsity=0.7, method="magnitude")],
}


@pytest.mark.parametrize("name", COMPRESSION)
def test_zeros_stay_whatever_acts_beside(kit: Any, tmp_path: Path, name: str) -> None:
    before = pruned(kit)
    model = train(kit, tmp_path, pruned(kit), COMPRESSION[name]()).finalize()
    for layer, at in zeros(before).items():
        found = zeros(model)[layer]
        assert bool(found[at].all()), layer
        if name in ("none", "distillation"):
            assert torch.equal(found, at), "no more and no fewer"
    moved = model.get_submodule("classifier").weight - before.get_submodule("classifier").weight
    assert moved.abs().max() > 1e-3
    filled = train(kit, tmp_path, pruned(kit), [], keep_zeros=False).finalize()
    assert not bool(zeros(filled)["classifier"].any())


def test_a_resumed_run_finds_the_zeros_in_its_checkpoint(kit: Any, tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    class Kill(transformers.TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                raise KilledError

    options = {"save_strategy": "steps", "save_steps": 2}
    whole = train(kit, tmp_path / "a", pruned(kit), COMPRESSION["distillation"](), **options).finalize()
    args = kit.arguments(tmp_path / "b", weight_decay=0.1, **options)
    killed = CompressionTrainer(
        pruned(kit), args, train_dataset=kit.rows(16), compression=COMPRESSION["distillation"](), keep_zeros=True
    )
    killed.add_callback(Kill())
    with pytest.raises(KilledError):
        killed.train()
    teacher = [Distillation(pruned(kit), hidden=1.0)]
    again = train(kit, tmp_path / "b", kit.classifier(seed=9), teacher, **options, resume=True).finalize()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert torch.equal(zeros(again)["classifier"], zeros(pruned(kit))["classifier"])
