"""SST-2, everything in one run: the recipe `sst2-joint.yaml` on a fine-tuned MiniLM, and what each of its parts gave and cost.

Reads MODELS_DIR/minilm-sst2 and DATA_DIR/sst2/{train,dev}.tsv. Every row of the ledger is an artifact of its own: accuracy on all
of dev in its runtime, latency at sequence 32, each in a child process, timed by turns. `--set` changes the recipe.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, markdown, write_results
from rich.console import Console

import leptonsdk as lepton
from leptonsdk.api import installed_plugins
from leptonsdk.data import DataSpec
from leptonsdk.data.loading import load_data
from leptonsdk.evaluation.harness import input_batches
from leptonsdk.evaluation.subjects import open_subject
from leptonsdk.evaluation.timing import Target, measure, shape_inputs
from leptonsdk.gating import paired_proportions, ratio_of_medians
from leptonsdk.hooks import EvaluationSettings
from leptonsdk.pipeline.display import RichDisplay
from leptonsdk.pipeline.fingerprints import available_threads

RECIPE = Path(__file__).parents[1] / "recipes" / "sst2-joint.yaml"
BATCHES, LENGTH = (1, 32), 32


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="KEY=VALUE")
    options = parser.parse_args()
    work: Path = options.work_dir / "joint"
    folder, data = options.models_dir / "minilm-sst2", options.data_dir / "sst2"
    dev, train = data / "dev.tsv", data / "train.tsv"
    overrides = [f"model.id={folder}", f"data.eval={{path: {dev}}}"]
    overrides += [f"data.{name}={{path: {train}}}" for name in ("train", "calibration")]
    run = lepton.compress(RECIPE, work / "run", overrides=[*overrides, *options.sets], display=RichDisplay(Console()))

    source = lepton.load_model(folder)
    steps = {name: work / "run" / "steps" / name for name in ("01-trim_vocabulary", "02-train")}
    trimmed, pruned = (lepton.load_model(place, task=source.task) for place in steps.values())

    def exported(name: str, model: Any, embeddings: str) -> lepton.Artifact:
        place = work / name.strip("+ ").replace(" ", "-")
        if not (place / "leptonsdk.json").is_file():
            calibration, samples = DataSpec(path=str(train), limit=512), DataSpec(path=str(dev), limit=64)
            more = {"calibration": calibration, "samples": samples, "embeddings": embeddings}
            lepton.export(model, "onnxruntime", place, precision="int8-static", **more)
        return lepton.Artifact.open(place)

    ledger: dict[str, Any] = {
        "torch fp32": source,
        "int8": exported("int8", source, "int8"),
        "+ trimmed vocabulary": exported("+ trimmed vocabulary", trimmed, "int8"),
        "+ heads and neurons pruned, distilled": run.artifact(),
        "+ 4-bit embeddings": exported("+ 4-bit embeddings", pruned, "int4"),
    }

    plugins, threads = installed_plugins(), available_threads()
    rows = load_data(DataSpec(path=str(dev)), plugins.get("evaluator", source.task), plugins)
    correct = {name: lepton.evaluate(subject, rows).columns["correct"] for name, subject in ledger.items()}
    sample = next(
        input_batches(open_subject(trimmed, plugins), rows, plugins, settings=EvaluationSettings(batch_size=1))
    )
    inputs = {(batch, LENGTH): shape_inputs(sample, batch, LENGTH) for batch in BATCHES}
    targets = [
        Target(name, "checkpoint", str(folder), source.task)
        if subject is source
        else Target(name, "artifact", str(subject.folder), source.task)
        for name, subject in ledger.items()
    ]
    measured = measure(targets, inputs, threads=threads, turns=options.turns)
    full = 4 * sum(parameter.numel() for parameter in source.model.parameters())
    table = []
    for name, subject in ledger.items():
        size = full if subject is source else subject.bytes_on_disk
        right, base = correct[name], correct["torch fp32"]
        drop = paired_proportions(right, base, 0.95)
        row: dict[str, object] = {
            "artifact": name,
            "MB": f"{size / 1e6:.2f}",
            "smaller": f"{full / size:.2f}x",
            "accuracy": f"{right.mean():.4f}",
            "drop, 95 % interval": f"{base.mean() - right.mean():+.4f} [{drop.low:+.4f}, {drop.high:+.4f}]",
        }
        for index, batch in enumerate(BATCHES):
            new = measured[name].latencies[index]
            row[f"b{batch} ms"] = f"{new.median * 1e3:.2f} ({new.spread[0] * 1e3:.2f} to {new.spread[1] * 1e3:.2f})"
            for other in ("torch fp32", "int8"):
                old = measured[other].latencies[index]
                found = ratio_of_medians(np.array(old.turns), np.array(new.turns), 0.95, seed=0)
                ratio = f"{old.median / new.median:.2f}x [{found.low:.2f}, {found.high:.2f}]"
                row[f"b{batch} over {other}"] = ratio
        table.append(row)
    step = next(step for step in run.state["steps"] if "train" in step["name"])
    parts = [
        markdown(table),
        f"Accuracy on all {len(rows)} rows of dev. Latency at sequence {LENGTH}, {threads} threads, {options.turns} turns: medians "
        "of turns with quartiles; ratios with 95 % intervals. Each row adds one part to the row above it; the last but one is the recipe's artifact. The training "
        f"took {step['seconds'] / 60:.0f} minutes. Settings: `{' '.join(options.sets) or 'as the recipe has them'}`.",
    ]
    command = "python benchmarks/joint.py --data-dir DATA_DIR --models-dir MODELS_DIR"
    write_results(
        "joint", "SST-2: trimmed, pruned, distilled and quantized in one run", parts, ["onnxruntime"], command
    )


if __name__ == "__main__":
    main()
