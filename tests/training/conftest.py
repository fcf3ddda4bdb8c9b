"""A tiny classifier on data that can be learnt, and a compressor that leaves a trace of all that it is asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from leptonsdk.hooks import Capabilities, PluginConfig, StepContext, TrainingCompressor
from leptonsdk.training import fold, transform_weight, whole


class Gate(nn.Module):
    """A learnt factor per row, and how far the schedule has come."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.ones(rows, 1))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.scores


class Shrinker(TrainingCompressor[PluginConfig]):
    """Scales the rows of all classifier layers, with penalties on the logits and on its scores."""

    name = "shrinker"
    config_class = PluginConfig
    capabilities = Capabilities(effects=frozenset({"sparsifies"}))

    def __init__(self, penalty: float = 0.1, lr: float = 0.05, settles: float = 0.0, decay: float = 0.0) -> None:
        super().__init__(PluginConfig())
        self.penalty, self.lr, self.settles, self.decay = penalty, lr, settles, decay
        self.seen: list[float] = []
        self.gates: list[Gate] = []

    def prepare(self, model: nn.Module, context: StepContext) -> None:
        self.layers = [m for m in model.modules() if type(m) is nn.Linear]
        self.gates = [Gate(layer.out_features) for layer in self.layers]
        for layer, gate in zip(self.layers, self.gates, strict=True):
            transform_weight(layer, self.name, gate)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [gate.scores for gate in self.gates], "lr": self.lr}]

    def loss(self, model: nn.Module, inputs: Mapping[str, Any], outputs: Any, loss: Tensor) -> Tensor:
        # Of the batch's items, so that a wrong share shows.
        loss = 0.5 * loss + self.penalty * outputs.logits.square().mean()
        if self.decay:
            loss = loss + self.decay * torch.stack([whole(gate.scores.square().sum()) for gate in self.gates]).sum()
        return loss

    def update(self, progress: float) -> None:
        self.seen.append(progress)

    def settled(self, progress: float) -> bool:
        return progress >= self.settles

    def logs(self) -> Mapping[str, float]:
        return {"gate": float(torch.cat([whole(gate.scores.detach()) for gate in self.gates]).mean())}

    def finalize(self, model: nn.Module, context: StepContext) -> nn.Module:
        for layer in self.layers:
            fold(layer, self.name)
        return model


def classifier(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return transformers.BertForSequenceClassification(config)


def language_model(seed: int = 0, **more: Any) -> Any:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        max_position_embeddings=16,
        **more,
    )
    return transformers.LlamaForCausalLM(config)


def rows(count: int = 32, *, language: bool = False) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    found = []
    for index in range(count):
        ids = torch.randint(3, 40, (8,), generator=generator)
        labels = ids.clone() if language else (ids[0] % 2)
        if language:
            labels[: index % 5] = -100  # batches differ in their items
        found.append({"input_ids": ids, "labels": labels})
    return found


def arguments(folder: Path, **more: Any) -> Any:
    options: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": 1,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.01,
        "logging_steps": 2,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 3,
    }
    return transformers.TrainingArguments(**{**options, **more})


@pytest.fixture(scope="session")
def kit() -> Any:
    """The helpers of this file, for the tests."""
    return SimpleNamespace(
        Shrinker=Shrinker, classifier=classifier, language_model=language_model, rows=rows, arguments=arguments
    )
