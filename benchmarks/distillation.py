"""SST-2, half the blocks of a fine-tuned MiniLM: what a student keeps of its teacher's accuracy, and how much faster it is.

Reads MODELS_DIR/minilm-sst2 (the teacher) and DATA_DIR/sst2/{train,dev}.tsv. Students are cut from the teacher and trained for the
same steps with and without it, over seeds; students that are done are kept in the work folder and not trained again, so that a run
with all of them there measures only. Accuracy on all of dev; latency at sequence 32, by turns, each model in a child process.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import accuracy_drop, arguments, inputs_of_shapes, markdown, milliseconds, speedup, write_results
from leptonsdk_distillation import Distillation, make_student
from scipy import stats

import leptonsdk as lepton
from leptonsdk.api import installed_plugins
from leptonsdk.checkpoint import Checkpoint
from leptonsdk.data import DataSpec
from leptonsdk.data.loading import Data, load_data
from leptonsdk.evaluation.timing import Latency, Target, measure
from leptonsdk.gating import paired_relative_proportions
from leptonsdk.pipeline.fingerprints import available_threads

# What the students' loss is made of beside the task's; None is fine-tuning without a teacher.
METHODS: dict[str, dict[str, Any] | None] = {
    "fine-tuned": None,
    "logits": {"alpha": 0.9, "temperature": 2.0},
    "logits, hidden states": {"alpha": 0.9, "temperature": 2.0, "hidden": 1.0},
}
HALF = 3  # of the teacher's six blocks
BATCHES, LENGTH = (1, 32), 32


@dataclass(frozen=True)
class Student:
    """One training."""

    method: str
    blocks: int
    seed: int
    epochs: float
    learning_rate: float

    @property
    def name(self) -> str:
        return "-".join(str(value).replace(", ", "+").replace(" ", "_") for value in dataclasses.astuple(self))


def train(student: Student, teacher: Path, data: Path, work: Path) -> Any:
    """The student's model, in fp32."""
    from datasets import load_dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        TrainingArguments,
        set_seed,
    )

    from leptonsdk.training import CompressionTrainer

    set_seed(student.seed)
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    rows = load_dataset("csv", data_files={"train": str(data / "train.tsv")}, sep="\t", quoting=3)["train"]
    rows = rows.map(lambda r: tokenizer(r["sentence"], truncation=True, max_length=64), batched=True)
    rows = rows.remove_columns("sentence").rename_column("label", "labels")
    model = AutoModelForSequenceClassification.from_pretrained(teacher, dtype="float32")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("embeddings" not in name)
    args = TrainingArguments(
        output_dir=str(work / student.name / "trainer"),
        num_train_epochs=student.epochs,
        per_device_train_batch_size=32,
        learning_rate=student.learning_rate,
        warmup_steps=0.05,
        train_sampling_strategy="group_by_length",
        bf16=True,
        use_cpu=True,
        seed=student.seed,
        save_strategy="no",
        logging_steps=0.1,
        report_to=[],
        disable_tqdm=True,
    )
    terms = METHODS[student.method]
    trainer = CompressionTrainer(
        make_student(model, student.blocks) if terms is None else model,
        args,
        train_dataset=rows,
        data_collator=DataCollatorWithPadding(tokenizer),
        compression=() if terms is None else [Distillation(student_layers=student.blocks, **terms)],
    )
    trainer.train()
    return trainer.finalize().float().eval()


def trained(student: Student, source: Checkpoint, teacher: Path, data: Path, dev: Data, work: Path) -> dict[str, Any]:
    """What ``NAME.json`` holds, made first where it is not there: right or wrong by row of dev, the training's minutes.

    The student is scored as it loads from its folder.
    """
    kept, folder = work / f"{student.name}.json", work / student.name
    if not kept.is_file():
        start = time.perf_counter()
        model = train(student, teacher, data, work)
        minutes = (time.perf_counter() - start) / 60
        source.replace(model=model).save(folder)
        correct = lepton.evaluate(lepton.load_model(folder), dev).columns["correct"]
        result = {"minutes": minutes, "correct": "".join(map(str, correct.astype(int)))}
        kept.write_text(json.dumps(result), encoding="utf-8")
        print(f"{student.name}: {correct.mean():.4f}, {minutes:.1f} minutes", flush=True)
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return {**found, "correct": np.array(list(found["correct"])) == "1"}


def accuracy_row(blocks: int, name: str, seed: object, correct: Any, base: Any) -> dict[str, object]:
    """One model beside the teacher, paired by example."""
    change = paired_relative_proportions(base, correct, 0.95)
    kept = correct.mean() / base.mean()
    return {
        "blocks": blocks,
        "trained with": name,
        "seed": seed,
        "accuracy": f"{correct.mean():.4f}",
        "of the teacher's, 95 % interval": f"{kept:.2%} [{1 + change.low:.2%}, {1 + change.high:.2%}]",
        "drop, 95 % interval": accuracy_drop(correct, base),
    }


def mean_rows(results: Mapping[Student, Mapping[str, Any]], base: float) -> list[dict[str, object]]:
    """A row for each method at half the blocks: the mean of its seeds, and what it gained over fine-tuning, paired by seed."""
    accuracies = {
        method: np.array([r["correct"].mean() for s, r in results.items() if (s.method, s.blocks) == (method, HALF)])
        for method in METHODS
    }
    rows = []
    for method, values in accuracies.items():
        gains = values - accuracies["fine-tuned"]
        row: dict[str, object] = {
            "trained with": method,
            "accuracy, mean of seeds": f"{values.mean():.4f} ({values.min():.4f} to {values.max():.4f})",
            "of the teacher's": f"{values.mean() / base:.2%}",
            "over fine-tuned": "",
        }
        if method != "fine-tuned" and len(gains) > 1:
            reach = stats.t.ppf(0.975, len(gains) - 1) * stats.sem(gains)
            row["over fine-tuned"] = f"{gains.mean():+.4f} [{gains.mean() - reach:+.4f}, {gains.mean() + reach:+.4f}]"
        rows.append(row)
    return rows


def without_blocks(source: Checkpoint, teacher: Path, work: Path) -> Path:
    """The teacher with none of its blocks: what halving them cannot make faster."""
    from transformers import AutoModelForSequenceClassification

    folder = work / "no-blocks"
    if not folder.is_dir():
        model = AutoModelForSequenceClassification.from_pretrained(teacher, num_hidden_layers=0, dtype="float32")
        source.replace(model=model).save(folder)
    return folder


def runtimes(source: Checkpoint, folders: Mapping[str, Path], dev: Data, work: Path) -> dict[str, dict[str, Target]]:
    """Every model in torch and in ONNX Runtime, in fp32."""
    torch, onnx = {}, {}
    for name, folder in folders.items():
        place = work / "onnx" / folder.name
        if not (place / "leptonsdk.json").is_file():
            lepton.export(lepton.load_model(folder), "onnxruntime", place, precision="fp32", samples=dev)
        torch[name] = Target(f"torch, {name}", "checkpoint", str(folder), source.task)
        onnx[name] = Target(f"onnx, {name}", "artifact", str(place), source.task)
    return {"torch": torch, "ONNX Runtime": onnx}


def speed_row(runtime: str, times: Mapping[str, Latency]) -> dict[str, object]:
    """One runtime at one batch size: the speedups, and the one to be had where only blocks go and each costs the same."""
    whole = times["teacher"]
    share = 1 - times["no blocks"].median / whole.median
    row: dict[str, object] = {"runtime": runtime, "batch": whole.batch_size}
    for name, latency in times.items():
        row[f"{name} ms"] = milliseconds(latency)
    return row | {
        "speedup": speedup(whole, times["student"]),
        "blocks' share of the teacher's time": f"{share:.1%}",
        "speedup at that share": f"{1 / (1 - share / 2):.2f}x",
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=0.5)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--turns", type=int, default=31)
    parser.add_argument("--threads", type=int, help="Of each timed model. Default: all that there are")
    options = parser.parse_args()
    work: Path = options.work_dir / "distillation"
    work.mkdir(parents=True, exist_ok=True)
    teacher, data = options.models_dir / "minilm-sst2", options.data_dir / "sst2"
    plugins, threads = installed_plugins(), options.threads or available_threads()
    source = lepton.load_model(teacher)
    dev = load_data(DataSpec(path=str(data / "dev.tsv")), plugins.get("evaluator", source.task), plugins)

    more = options.epochs, options.learning_rate
    students = [Student(m, HALF, seed, *more) for seed in range(1, options.seeds + 1) for m in METHODS]
    results = {student: trained(student, source, teacher, data, dev, work) for student in students}
    base = lepton.evaluate(source, dev).columns["correct"]
    cut = lepton.evaluate(source.replace(model=make_student(source.model, HALF)), dev).columns["correct"]
    runs = [accuracy_row(6, "the teacher", "", base, base), accuracy_row(HALF, "not trained", "", cut, base)]
    runs += [accuracy_row(s.blocks, s.method, s.seed, r["correct"], base) for s, r in results.items()]

    inputs = inputs_of_shapes(source, dev, plugins, BATCHES, LENGTH)
    student = work / students[0].name  # all have the same shape
    folders = {"teacher": teacher, "student": student, "no blocks": without_blocks(source, teacher, work)}
    targets = runtimes(source, folders, dev, work)
    everything = [target for of_one in targets.values() for target in of_one.values()]
    measured = measure(everything, inputs, threads=threads, turns=options.turns)
    speeds = [
        speed_row(runtime, {name: measured[target.name].latencies[index] for name, target in of_one.items()})
        for runtime, of_one in targets.items()
        for index in range(len(BATCHES))
    ]

    parts = [
        markdown(mean_rows(results, base.mean())),
        f"Students of {HALF} blocks, cut from the teacher's six ({base.mean():.4f}; 97 % of it is {0.97 * base.mean():.4f}) and "
        f"trained for {options.epochs} epochs with a learning rate of {options.learning_rate}, embeddings frozen, over "
        f"{options.seeds} seeds. In brackets 95 % intervals of the mean over "
        "seeds (Student's t, paired by seed).",
        markdown(speeds),
        f"fp32, sequence {LENGTH}, {threads} threads, {options.turns} turns: medians of turns with quartiles, ratios with 95 % "
        "intervals. *No blocks* is the teacher with none of its blocks, that is embeddings, pooler, classifier and the call "
        "itself, which every student keeps. *Speedup at that share*: if half of the blocks' time goes, and nothing else. A "
        "speedup above it says that one of the teacher's blocks takes longer than one of the student's.",
        "Every run:",
        markdown(runs),
        f"All {len(base)} rows of dev, paired by row.",
    ]
    command = "python benchmarks/distillation.py --data-dir DATA_DIR --models-dir MODELS_DIR"
    command += f" --threads {options.threads}" if options.threads else ""
    write_results(
        "distillation", "SST-2: students with half of their teacher's blocks", parts, ["onnxruntime"], command
    )


if __name__ == "__main__":
    main()
