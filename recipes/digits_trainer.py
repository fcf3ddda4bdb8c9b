"""A plain training script with transformers' Trainer, and the five lines (marked ←) that make it prune and distill.

    python recipes/digits_vit.py --out runs/digits-vit
    python recipes/digits_trainer.py --model runs/digits-vit --out runs/digits-smaller

About a minute on two cores; nothing is downloaded.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from leptonsdk_distillation import Distillation  # ←
from leptonsdk_movement_pruning import MovementPruning  # ←
from transformers import TrainingArguments, ViTForImageClassification, ViTImageProcessorPil

from leptonsdk.data.digits import Digits
from leptonsdk.training import CompressionTrainer  # ← instead of transformers.Trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("runs/digits-vit"))
    parser.add_argument("--out", type=Path, default=Path("runs/digits-smaller"))
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    model = ViTForImageClassification.from_pretrained(options.model)
    processor = ViTImageProcessorPil.from_pretrained(options.model)
    digits = {split: Digits().load(split) for split in ("train", "test")}

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        pixels = processor([row["image"].convert("RGB") for row in rows], return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixels, "labels": torch.tensor([row["label"] for row in rows])}

    def accuracy(prediction: Any) -> dict[str, float]:
        return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

    args = TrainingArguments(
        output_dir=str(options.out / "checkpoints"),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=32,
        learning_rate=1e-3,
        save_strategy="no",
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )
    trainer = CompressionTrainer(
        model,
        args,
        train_dataset=digits["train"],
        eval_dataset=digits["test"],
        data_collator=collate,
        compute_metrics=accuracy,
        compression=[MovementPruning(final_sparsity=0.5, round_to=16), Distillation()],  # ←
    )
    before, weights = trainer.evaluate()["eval_accuracy"], sum(p.numel() for p in model.parameters())
    trainer.train()
    smaller = trainer.finalize()  # ←
    after, left = trainer.evaluate()["eval_accuracy"], sum(p.numel() for p in smaller.parameters())
    smaller.save_pretrained(options.out)
    processor.save_pretrained(options.out)
    print(f"accuracy {before:.4f} -> {after:.4f}, parameters {weights:,} -> {left:,}")


if __name__ == "__main__":
    main()
