"""Two processes, with a model in parts (FSDP2) or whole (DistributedDataParallel), prune as one does."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from leptonsdk_movement_pruning import MovementPruning

from leptonsdk.training import CompressionTrainer

SETTINGS: dict[str, dict[str, Any]] = {
    "soft": {"method": "soft_movement", "structure": "block", "block_shape": (4, 4), "final_sparsity": 0.5},
    "l1": {"method": "l1", "structure": "block", "block_shape": (8, 8), "final_sparsity": 0.5, "regularization": 0.01},
    "units": {"structure": ("heads", "ffn"), "final_sparsity": 0.5},
    "magnitude": {"method": "magnitude", "structure": "unstructured", "final_sparsity": 0.5, "budget": "global"},
    "layers": {"structure": "layers", "final_sparsity": 0.5},
    # Frozen scores: the first has no gradient for them, where the Trainer has none be unused; the second one from its penalty.
    "frozen": {"method": "movement", "structure": ("heads", "layers"), "final_sparsity": 0.5, "freeze": True},
    "penalized": {"method": "soft_movement", "structure": "rows", "final_sparsity": 0.5, "freeze": True},
}
CASES = {name: None if name in ("frozen", "penalized") else "BertLayer" for name in SETTINGS}


def train(case: str, folder: Path, processes: int, **options: Any) -> dict[str, Any]:
    """The finished model's weights, and what was logged."""
    spec = importlib.util.spec_from_file_location("kit", Path(__file__).parents[2] / "conftest.py")
    kit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kit)
    options |= {"optim": "sgd", "learning_rate": 0.1, "per_device_train_batch_size": 8 // processes}
    pruning = MovementPruning(**SETTINGS[case], score_learning_rate=0.1)
    trainer = CompressionTrainer(
        kit.build("bert"),
        kit.arguments(folder, gradient_checkpointing=case == "frozen", **options),
        train_dataset=kit.rows("bert"),
        compression=[pruning],
    )
    trainer.train()
    log = [value for entry in trainer.state.log_history for key, value in entry.items() if "sparsity" in key]
    return {"log": log, "weights": dict(trainer.finalize().state_dict())}


@pytest.fixture(scope="module")
def trained(two_processes: Callable[[str], dict[str, list[Any]]]) -> dict[str, list[Any]]:
    return two_processes(__file__)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_prune_like_one(case: str, trained: dict[str, list[Any]], tmp_path: Path) -> None:
    one = train(case, tmp_path, 1)
    assert one["log"][-1] > 0.3
    for two in trained[case]:
        assert two["log"] == pytest.approx(one["log"], abs=1e-6)
        torch.testing.assert_close(two["weights"], one["weights"], atol=1e-5, rtol=1e-5)
