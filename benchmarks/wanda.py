"""Pruned without training: perplexity of SmolLM2-135M with half of its weights gone, by Wanda and by size.

Reads MODELS_DIR/smollm2 and DATA_DIR/wikitext2/wiki.valid.tokens: its first tokens calibrate, its last ones are what perplexity is taken on.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from common import arguments, markdown, write_results
from leptonsdk_wanda import Wanda, WandaConfig
from leptonsdk_wanda.masks import keep

import leptonsdk as lepton
from leptonsdk.checkpoint import Checkpoint
from leptonsdk.hooks import StepContext
from leptonsdk.quantization import choose_layers

ROWS, LENGTH = 16, 512
WINDOWS, WINDOW = 6, 1024


def by_size(source: Checkpoint, config: WandaConfig) -> Checkpoint:
    """Magnitude pruning: the smallest weights of each layer go, or of each group of a pattern."""
    model = copy.deepcopy(source.model)
    with torch.no_grad():
        for layer in choose_layers(model, config.targets, config.ignore):
            weight = layer.weight
            size = weight.numel() if config.pattern is None else config.group(weight.shape[1])[0]
            mask = keep(weight.abs().reshape(1, -1), size, round(Wanda(config).sparsity() * size))
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

    table: list[dict[str, object]] = []

    def measure(what: str, sparsity: str, model: Checkpoint, seconds: float | None) -> None:
        scores = lepton.evaluate(model, [held_out], task="text-generation", batch_size=1, max_length=WINDOW)
        took = "" if seconds is None else f"{seconds:.0f}"
        table.append(
            {"": what, "zeros": sparsity, "perplexity": f"{scores.value('perplexity'):.2f}", "seconds to prune": took}
        )
        print(table[-1], flush=True)

    def timed(what: str, sparsity: str, make: Any) -> None:
        start = time.perf_counter()
        made = make()
        measure(what, sparsity, made, time.perf_counter() - start)

    measure("as it is", "none", source, None)
    for label, config in (("half of each row", WandaConfig()), ("2 of every 4", WandaConfig(pattern="2:4"))):
        timed("by size", label.replace("each row", "each layer"), lambda config=config: by_size(source, config))
        with tempfile.TemporaryDirectory() as scratch:
            context = StepContext(seed=0, folder=Path(scratch), batches=batches)
            timed("Wanda", label, lambda config=config, context=context: Wanda(config).compress(source, context))

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
