"""The plain calls that train: pruned and distilled models from one line, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import leptonsdk as lepton
from leptonsdk.errors import MissingPluginError, UsageError
from leptonsdk.hooks import load_plugins

ARGS = {"max_steps": 6, "per_device_train_batch_size": 8, "learning_rate": 1e-3}
Rows = list[dict[str, object]]


def test_a_model_is_pruned_and_what_was_given_stays(bert_folder: Path, sentences: Rows, tmp_path: Path) -> None:
    model = lepton.load_model(bert_folder)
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    seen: list[tuple[int, int]] = []
    smaller = lepton.prune_model(
        model,
        sentences,
        sparsity={"layers": 0.5, "ffn": 0.75},
        structure=("layers", "ffn"),
        columns={"text": "sentence"},
        args=ARGS,
        round_to=4,
        progress=lambda done, total, what: seen.append((done, total)),
    )
    config = smaller.model.config
    assert (config.num_hidden_layers, config.intermediate_size) == (1, 16)
    assert seen[-1] == (6, 6)
    assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())
    lepton.save_model(smaller, tmp_path / "smaller")
    scores = lepton.evaluate(tmp_path / "smaller", sentences, columns={"text": "sentence"})
    assert scores.values() == lepton.evaluate(smaller, sentences, columns={"text": "sentence"}).values()


def test_a_student_is_cut_from_its_teacher(bert_folder: Path, sentences: Rows) -> None:
    student = lepton.distill_model(bert_folder, train_data=sentences, student_layers=1, args=ARGS, temperature=4.0)
    assert student.model.config.num_hidden_layers == 1
    assert student.processor is not None
    narrow = {"student_layers": 1, "student_heads": 2, "student_intermediate_size": 24}
    student = lepton.distill_model(bert_folder, train_data=sentences, args=ARGS, **narrow)
    layer = student.model.bert.encoder.layer[0]
    assert (layer.attention.self.query.out_features, layer.intermediate.dense.out_features) == (16, 24)


@pytest.mark.parametrize("kind", ["folder", "checkpoint", "model"])
def test_a_student_comes_near_its_teacher(bert_folder: Path, sentences: Rows, kind: str) -> None:
    student, teacher = lepton.load_model(bert_folder), lepton.load_model(bert_folder)
    with torch.no_grad():
        teacher.model.classifier.bias.add_(torch.tensor([-2.0, 2.0]))
    given: Any = {"folder": bert_folder, "checkpoint": teacher, "model": teacher.model}[kind]
    taught = lepton.distill_model(student, given, train_data=sentences, args={**ARGS, "learning_rate": 0.05}, alpha=1.0)
    gap = (taught.model.classifier.bias[1] - taught.model.classifier.bias[0]).item()
    assert (gap > 0.1) == (kind != "folder")


def test_a_model_without_labels_learns_from_embeddings(bert_folder: Path, sentences: Rows) -> None:
    encoder = lepton.load_model(bert_folder, task="feature-extraction")
    pairs = [{"query": row["sentence"], "passage": row["sentence"]} for row in sentences]
    smaller = lepton.prune_model(encoder, pairs, sparsity=0.5, args=ARGS)
    assert smaller.model.config.intermediate_size == 32


def test_what_cannot_be_done_is_said(bert_folder: Path, sentences: Rows) -> None:
    with pytest.raises(UsageError, match="prune_model: final_sparsity.*less than 1"):
        lepton.prune_model(bert_folder, sentences, sparsity=2.0)
    with pytest.raises(UsageError, match="has no 'num_train_epoch'"):
        lepton.prune_model(bert_folder, sentences, sparsity=0.5, args={"num_train_epoch": 1})
    with pytest.raises(UsageError, match="nothing to learn.*student_layers, student_heads"):
        lepton.distill_model(bert_folder, train_data=sentences)
    plugins = load_plugins(only=[])
    with pytest.raises(MissingPluginError, match="pip install leptonsdk-movement-pruning"):
        lepton.prune_model(bert_folder, sentences, sparsity=0.5, plugins=plugins)
    with pytest.raises(MissingPluginError, match="pip install leptonsdk-distillation"):
        lepton.distill_model(bert_folder, train_data=sentences, student_layers=1, plugins=plugins)
