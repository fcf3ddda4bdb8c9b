"""A student in parts (FSDP2), on two processes, learns what it learns on one."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from leptonsdk_distillation import Distillation

from leptonsdk.training import CompressionTrainer

CASES = {"states": "BertLayer", "itself": "BertLayer"}


def _teacher() -> Any:
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    return transformers.BertForSequenceClassification(config)


def train(case: str, folder: Path, processes: int, **options: Any) -> dict[str, Any]:
    """The finished student's weights, and the losses that were logged."""
    spec = importlib.util.spec_from_file_location("kit", Path(__file__).parents[2] / "conftest.py")
    kit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kit)
    options |= {"optim": "sgd", "learning_rate": 0.05, "per_device_train_batch_size": 8 // processes}
    states = case == "states"  # projections to the teacher's width are parameters of the model's own, used by a hook
    trainer = CompressionTrainer(
        kit.build("bert"),
        kit.arguments(folder, **options),
        train_dataset=kit.rows("bert"),
        compression=[Distillation(_teacher(), hidden=1.0, embeddings=1.0) if states else Distillation(cache=True)],
    )
    start = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.train()
    for name in start.keys() & {"distillation_projections.hidden_states.weight"}:
        trained = trainer.model.state_dict()[name]
        trained = trained.full_tensor() if hasattr(trained, "full_tensor") else trained
        assert not torch.equal(trained, start[name])
    return {"weights": dict(trainer.finalize().state_dict())}


@pytest.fixture(scope="module")
def trained(two_processes: Callable[[str], dict[str, list[Any]]]) -> dict[str, list[Any]]:
    return two_processes(__file__)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_distil_like_one(case: str, trained: dict[str, list[Any]], tmp_path: Path) -> None:
    one = train(case, tmp_path, 1)
    for two in trained[case]:
        torch.testing.assert_close(two["weights"], one["weights"], atol=1e-5, rtol=1e-5)
