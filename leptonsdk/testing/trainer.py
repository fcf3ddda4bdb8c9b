"""Training compressors at work: a few steps of a real Trainer on a tiny model, or their methods one by one."""

from __future__ import annotations

import copy
import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from leptonsdk.checkpoint import Checkpoint
from leptonsdk.hooks import StepContext, TrainingCompressor
from leptonsdk.testing.models import tiny_rows
from leptonsdk.training import CompressionTrainer

STEPS = 2


def trainer_for(
    compression: Sequence[TrainingCompressor[Any]],
    checkpoint: Checkpoint,
    folder: Path,
    *,
    keep_zeros: bool = False,
    **arguments: Any,
) -> CompressionTrainer:
    """A Trainer of a copy of a tiny model, for two steps of four rows."""
    fields: dict[str, Any] = {
        "output_dir": str(folder / "trainer"),
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "seed": 0,
    }
    trainer = CompressionTrainer(
        copy.deepcopy(checkpoint.model),
        TrainingArguments(**{**fields, **arguments}),
        train_dataset=tiny_rows(checkpoint),
        data_collator=_collate,
        compression=compression,
        quantized=checkpoint.quantized,
        keep_zeros=keep_zeros,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _collate(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {name: torch.stack([torch.as_tensor(row[name]) for row in rows]) for name in rows[0]}


def train(
    compression: Sequence[TrainingCompressor[Any]],
    checkpoint: Checkpoint,
    folder: Path,
    *,
    resume_from: str | None = None,
    watcher: TrainerCallback | None = None,
    **arguments: Any,
) -> Checkpoint:
    """The checkpoint after a short training run."""
    trainer = trainer_for(compression, checkpoint, folder, **arguments)
    if watcher is not None:
        trainer.add_callback(watcher)
    gc.freeze()  # the Trainer collects garbage when it ends: looking through all of torch takes longer than the training
    try:
        trainer.train(resume_from_checkpoint=resume_from)
    finally:
        gc.unfreeze()
    return trainer.checkpoint(checkpoint)


def step_by_step(compressor: TrainingCompressor[Any], checkpoint: Checkpoint, folder: Path) -> nn.Module:
    """The compressor's own methods in their order around one batch, without a Trainer: what these leave is theirs."""
    model: Any = compressor.student(copy.deepcopy(checkpoint.model)).train()
    context = StepContext(seed=0, folder=folder, quantized=checkpoint.quantized)
    compressor.prepare(model, context)
    compressor.parameter_groups()
    compressor.update(0.0)
    batch = _collate(tiny_rows(checkpoint, 4))
    outputs = model(**batch, **compressor.model_inputs())
    compressor.loss(model, batch, outputs, outputs.loss).backward()  # type: ignore[no-untyped-call]
    compressor.update(1.0)
    compressor.logs()
    finished = compressor.finalize(model, context)
    compressor.checkpoint(checkpoint.replace(model=finished.requires_grad_(True).eval(), quantized={}))
    return finished
