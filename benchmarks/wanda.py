"""Pruned without training: perplexity of SmolLM2-135M with half of its weights gone, by Wanda and by size.

Reads MODELS_DIR/smollm2 and DATA_DIR/wikitext2/wiki.valid.tokens: its first tokens calibrate, its last ones are what perplexity is taken on.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from common import arguments, kept, markdown, write_results
from leptonsdk_wanda import Wanda, WandaConfig
from leptonsdk_wanda.masks import keep

import leptonsdk as lepton
from leptonsdk.checkpoint import Checkpoint
from leptonsdk.hooks import StepContext
from leptonsdk.quantization import choose_layers

ROWS, LENGTH = 16, 512
WINDOWS, WINDOW = 6, 1024


def by_size(source: Checkpoint, config: WandaConfig) -> Checkpoint:
    """Magnitude pruning: the smallest weights of each layer go."""
    model = copy.deepcopy(source.model)
    with torch.no_grad():
        for layer in choose_layers(model, config.targets, config.ignore):
            weight = layer.weight
            mask = keep(weight.abs().reshape(1, -1), weight.numel(), round(config.sparsity * weight.numel()))
            weight.masked_fill_(~mask.reshape(weight.shape), 0)
    return source.replace(model=model)


def main() -> None:
    options = arguments(__doc__).parse_args()
    source = lepton.load_model(options.models_dir / "smollm2")
    text = (options.data_dir / "wikitext2" / "wiki.valid.tokens").read_text(encoding="utf-8")
    tokenizer = source.processor
    tokens = tokenizer(text[: ROWS * LENGTH * 6], return_tensors="pt", verbose=False)["input_ids"][0]
    rows = tokens[: ROWS * LENGTH].reshape(ROWS, LENGTH)
    ids = tokenizer(text[-60_000:], verbose=False)["input_ids"][: WINDOWS * WINDOW]
    held_out = tokenizer.decode(ids)

    def batches(size: int) -> Iterator[dict[str, torch.Tensor]]:
        for part in rows.split(size):
            yield {"input_ids": part}

    def wanda(config: WandaConfig) -> Checkpoint:
        with tempfile.TemporaryDirectory() as scratch:
            return Wanda(config).compress(source, StepContext(seed=0, folder=Path(scratch), batches=batches))

    def perplexity(make: Callable[[], Checkpoint]) -> float:
        scores = lepton.evaluate(make(), [held_out], task="text-generation", batch_size=1, max_length=WINDOW)
        return scores.value("perplexity")

    half = WandaConfig(sparsity=0.5)
    variants: dict[str, Callable[[], Checkpoint]] = {
        "as it is": lambda: source,
        "by size, half of each layer": lambda: by_size(source, half),
        "Wanda, half of each row": lambda: wanda(half),
    }
    found = {
        name: kept(options.work_dir / "wanda" / f"{name}.json", partial(perplexity, make))
        for name, make in variants.items()
    }
    table = [{"pruned": name, "perplexity": f"{found[name]:.2f}"} for name in variants]

    write_results(
        "wanda",
        "Pruned without training: SmolLM2-135M, half of its weights",
        [
            f"Perplexity on {WINDOWS} windows of {WINDOW} tokens of WikiText-2's validation text, in torch, fp32; {ROWS} x {LENGTH} "
            "other tokens of it calibrate. Embeddings (and the output layer, which is tied to them) are left as they are. Wanda "
            "(arXiv 2306.11695) compares weights within a row by their size times the norm of their input; "
            "by size, those of a whole layer are compared, as in the paper. One run each.",
            markdown(table),
        ],
        ["leptonsdk-wanda"],
        "python benchmarks/wanda.py --data-dir DATA --models-dir MODELS",
    )


if __name__ == "__main__":
    main()
