"""Trains a small ViT on scikit-learn's handwritten digits: the model that `digits-vit.yaml` compresses.

    python recipes/digits_vit.py --out runs/digits-vit

About half a minute on two cores; nothing is downloaded.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.nn import functional
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from leptonsdk.data.digits import Digits


def pixels(split: str, processor: ViTImageProcessorPil) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [n, 3, 8, 8] and labels [n] of a split."""
    rows = Digits().load(split)
    return processor(rows["image"][:], return_tensors="pt")["pixel_values"], torch.tensor(rows["label"][:])


def train(out: Path, epochs: int = 30, batch_size: int = 32, seed: int = 0) -> float:
    """Train, save with the image processor, and return the accuracy on the test split."""
    processor = ViTImageProcessorPil(do_resize=False, size={"height": 8, "width": 8})
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    names = [str(digit) for digit in range(10)]
    config = ViTConfig(
        image_size=8,
        patch_size=2,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=128,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )
    model = ViTForImageClassification(config)
    images, labels = pixels("train", processor)
    steps = epochs * -(-len(images) // batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=generator).split(batch_size):
            logits = model(pixel_values=images[rows]).logits
            functional.cross_entropy(logits, labels[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    model.eval()
    model.save_pretrained(out)
    processor.save_pretrained(out)
    images, labels = pixels("test", processor)
    with torch.no_grad():
        return float((model(pixel_values=images).logits.argmax(dim=1) == labels).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/digits-vit"))
    parser.add_argument("--epochs", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # so small a model gains nothing from more
    accuracy = train(arguments.out, epochs=arguments.epochs)
    print(f"{arguments.out}: accuracy {accuracy:.4f} on the test split")


if __name__ == "__main__":
    main()
