"""One training of the pruning benchmark, in a process of its own: `benchmarks/pruning.py` starts it."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def train(run: dict[str, Any]) -> dict[str, object]:
    """Fine-tune while pruning, score dev, count what is left.

    Args:
        run: ``models``, ``data``, ``work``: folders; ``seed``, ``distilled``; ``training``: the Trainer's arguments; ``pruning``:
            the options of `MovementPruning`, None to prune nothing.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch
    from datasets import disable_progress_bars, load_dataset
    from leptonsdk_distillation import Distillation
    from leptonsdk_movement_pruning import MovementPruning
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        TrainingArguments,
        set_seed,
    )

    from leptonsdk.training import CompressionTrainer

    torch.set_num_threads(1)
    set_seed(run["seed"])
    disable_progress_bars()
    models, data, work = (Path(run[name]) for name in ("models", "data", "work"))
    tokenizer = AutoTokenizer.from_pretrained(models / "minilm")
    rows = load_dataset("csv", data_files={n: str(data / f"{n}.tsv") for n in ("train", "dev")}, sep="\t", quoting=3)
    rows = rows.map(lambda r: tokenizer(r["sentence"], truncation=True, max_length=64), batched=True)
    rows = rows.remove_columns("sentence").rename_column("label", "labels")
    model = AutoModelForSequenceClassification.from_pretrained(
        models / "minilm", num_labels=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("embeddings" not in name)
    weights = sum(weight.numel() for weight in encoder(model))
    compression: list[Any] = []
    if run["pruning"] is not None:
        compression.append(MovementPruning(**run["pruning"]))
    if run["distilled"]:
        teacher = str(models / "minilm-sst2")
        compression.append(Distillation(teacher=teacher, alpha=0.9, temperature=2.0, cache=True))
    args = TrainingArguments(
        output_dir=str(work / "trainer"),  # one folder, so that all runs share the teacher's logits
        per_device_eval_batch_size=128,
        train_sampling_strategy="group_by_length",
        bf16=True,
        use_cpu=True,
        seed=run["seed"],
        save_strategy="no",
        logging_steps=0.1,
        report_to=[],
        disable_tqdm=True,
        **run["training"],
    )
    trainer = CompressionTrainer(
        model,
        args,
        train_dataset=rows["train"],
        data_collator=DataCollatorWithPadding(tokenizer),
        compression=compression,
    )
    start, cpu = time.perf_counter(), time.process_time()
    trainer.train()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    model = trainer.finalize().float().eval()
    prediction = trainer.predict(rows["dev"])
    correct = prediction.predictions.argmax(-1) == prediction.label_ids
    return {
        "accuracy": float(correct.mean()),
        "left": sum(int((weight != 0).sum()) for weight in encoder(model)) / weights,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    }


def encoder(model: Any) -> list[Any]:
    """The weights that are pruned: every linear layer's of every block."""
    import torch

    return [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and ".layer." in name
    ]


if __name__ == "__main__":
    out = Path(sys.argv[1])
    result = train(json.loads(sys.stdin.read()))
    aside = out.with_suffix(f".{os.getpid()}.tmp")
    aside.write_text(json.dumps(result), encoding="utf-8")
    aside.replace(out)  # whole or not at all: a run that is killed is run again
