"""From quantization-aware training to an artifact: the integers and scales of the training are those of the export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from leptonsdk_distillation import Distillation
from leptonsdk_qat import QuantizationAwareTraining
from onnx import numpy_helper
from transformers import TrainingArguments

import leptonsdk as lepton
from leptonsdk.api import installed_plugins
from leptonsdk.errors import UsageError
from leptonsdk.training import CompressionTrainer


def train(folder: Path, out: Path) -> CompressionTrainer:
    source = lepton.load_model(folder)
    generator = torch.Generator().manual_seed(0)
    rows = [{"input_ids": torch.randint(4, 24, (12,), generator=generator), "labels": i % 2} for i in range(64)]
    for module in source.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    args = TrainingArguments(
        output_dir=str(out), num_train_epochs=3, learning_rate=1e-3, report_to=[], use_cpu=True, disable_tqdm=True
    )
    trainer = CompressionTrainer(
        source.model,
        args,
        train_dataset=rows,
        compression=[Distillation(alpha=0.5), QuantizationAwareTraining(ignore=("classifier",))],
        processing_class=source.processor,
    )
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def trained(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("qat")
    trainer = train(bert_folder, out / "training")
    ids = torch.randint(4, 24, (16, 12), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        quantized = trainer.model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return ids, quantized, trainer.checkpoint(), out


@pytest.mark.parametrize(
    "backend, reloaded, options",
    [
        ("onnxruntime", False, {"precision": "int8-static", "embeddings": "float"}),
        ("onnxruntime", True, {"precision": "int8-static", "embeddings": "float"}),
        ("openvino", True, {"precision": "int8", "ignore": ("*embeddings",)}),
    ],
)
def test_the_artifact_computes_what_was_trained(trained: Any, backend: str, reloaded: bool, options: Any) -> None:
    ids, quantized, checkpoint, out = trained
    if reloaded:
        checkpoint = lepton.load_model(lepton.save_model(checkpoint, out / "saved"))
    artifact = lepton.export(checkpoint, backend, out / f"{backend}-{reloaded}", **options)
    report = artifact.details["quantization"]
    assert report.get("calibration", report)["method"] == "trained"
    runner = installed_plugins().get("backend", backend).load(artifact)
    logits = runner(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    with torch.no_grad():
        floats = checkpoint.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    error = float((logits - quantized).abs().max())
    assert error < 0.1 * float((floats - quantized).abs().max())


def test_the_artifact_holds_the_trained_integers(trained: Any) -> None:
    _, _, checkpoint, out = trained
    place = out / "integers"
    artifact = lepton.export(checkpoint, "onnxruntime", place, precision="int8-static")
    graph = onnx.load(artifact.folder / artifact.entry).graph
    stored = [numpy_helper.to_array(t) for t in graph.initializer if t.data_type == onnx.TensorProto.INT8]
    columns = {column.tobytes() for matrix in stored if matrix.ndim == 2 for column in matrix.T}
    assert len(checkpoint.quantized) > 6
    for name, tensor in checkpoint.quantized.items():
        rows = np.asarray(tensor.integers)
        if "pooler" not in name and rows.size >= 512:
            assert all(row.tobytes() in columns for row in rows), name


def test_without_trained_scales_data_is_asked_for(bert_folder: Path, tmp_path: Path) -> None:
    weights_only = lepton.quantize_model(bert_folder, bit_width=8)
    with pytest.raises(UsageError, match="needs calibration data"):
        lepton.export(weights_only, "onnxruntime", tmp_path, precision="int8-static")
