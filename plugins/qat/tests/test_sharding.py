"""Two processes, with a model in parts (FSDP2) or whole (DistributedDataParallel), learn and observe the same ranges."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from leptonsdk_qat import QuantizationAwareTraining

from leptonsdk.training import CompressionTrainer

SETTINGS: dict[str, dict[str, Any]] = {
    "learned": {"bit_width": 4, "group_size": 8},
    "observed": {"activation_ranges": "observed"},
    "shared": {"weight_scales": "learned"},  # whisper: all of the decoder's blocks read one tensor of the encoder
    "late": {
        "weight_scales": "learned",
        "start": 0.5,
    },  # nothing rounds at first, and the Trainer has nothing be unused
}
CASES = {"learned": "BertLayer", "observed": "BertLayer", "shared": "WhisperDecoderLayer", "late": None}


def train(case: str, folder: Path, processes: int, **options: Any) -> dict[str, Any]:
    """The finished model's weights, its integers, and its input scales."""
    spec = importlib.util.spec_from_file_location("kit", Path(__file__).parents[2] / "conftest.py")
    kit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kit)
    name = "whisper" if case == "shared" else "bert"
    options |= {"optim": "sgd", "learning_rate": 0.01, "per_device_train_batch_size": 4}
    options["gradient_accumulation_steps"] = 2 // processes  # the gradient of a range goes by the size of its input
    trainer = CompressionTrainer(
        kit.build(name),
        kit.arguments(folder, gradient_checkpointing=case == "late", **options),
        train_dataset=kit.rows(name),
        compression=[QuantizationAwareTraining(**SETTINGS[case], scale_learning_rate=5.0)],
    )
    trainer.train()
    checkpoint = trainer.checkpoint()
    return {
        "weights": dict(checkpoint.model.state_dict()),
        "integers": {module: tensor.integers for module, tensor in checkpoint.quantized.items()},
        "scales": {module: tensor.input_scale.scale for module, tensor in checkpoint.quantized.items()},
    }


@pytest.fixture(scope="module")
def trained(two_processes: Callable[[str], dict[str, list[Any]]]) -> dict[str, list[Any]]:
    return two_processes(__file__)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_quantize_like_one(case: str, trained: dict[str, list[Any]], tmp_path: Path) -> None:
    one = train(case, tmp_path, 1)
    for two in trained[case]:
        assert two["scales"] == pytest.approx(one["scales"], rel=1e-5)
        torch.testing.assert_close(two["integers"], one["integers"])
        torch.testing.assert_close(two["weights"], one["weights"], atol=1e-4, rtol=1e-4)  # steps are some 1e-3
    # What one process has seen of its own batches may not be left in it.
    torch.testing.assert_close(trained[case][0], trained[case][1], atol=0, rtol=0)
