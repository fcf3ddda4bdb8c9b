"""SST-2, everything in one run: the recipe `sst2-joint.yaml` on a fine-tuned MiniLM, and what each of its parts gave and cost.

Reads MODELS_DIR/minilm-sst2 and DATA_DIR/sst2/{train,dev}.tsv. Every row of the ledger is an artifact of its own: accuracy on all
of dev in its runtime, latency at sequence 32, each in a child process, timed by turns. `--set` changes the recipe.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from common import accuracy_drop, arguments, inputs_of_shapes, markdown, milliseconds, speedup, write_results
from rich.console import Console

import leptonsdk as lepton
from leptonsdk.api import installed_plugins
from leptonsdk.data import DataSpec
from leptonsdk.data.loading import load_data
from leptonsdk.evaluation.timing import Target, measure
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
    trimmed, trained = (lepton.load_model(place, task=source.task) for place in steps.values())

    def exported(name: str, model: Any) -> lepton.Artifact:
        place = work / re.sub(r"\W+", "-", name.strip("+ "))
        if not (place / "leptonsdk.json").is_file():
            calibration, samples = DataSpec(path=str(train), limit=512), DataSpec(path=str(dev), limit=64)
            more = {"calibration": calibration, "samples": samples}
            lepton.export(model, "onnxruntime", place, precision="int8-static", **more)
        return lepton.Artifact.open(place)

    ledger: dict[str, Any] = {
        "torch fp32": source,
        "int8": exported("int8", source),
        "+ trimmed vocabulary": exported("+ trimmed vocabulary", trimmed),
        "+ heads and neurons pruned, distilled": exported("+ pruned, distilled", trained.replace(quantized={})),
        "+ trained quantized": exported("+ trained quantized", trained),
        "+ 4-bit embeddings": run.artifact(),
    }

    plugins, threads = installed_plugins(), available_threads()
    rows = load_data(DataSpec(path=str(dev)), plugins.get("evaluator", source.task), plugins)
    correct = {name: lepton.evaluate(subject, rows).columns["correct"] for name, subject in ledger.items()}
    inputs = inputs_of_shapes(trimmed, rows, plugins, BATCHES, LENGTH)
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
        row: dict[str, object] = {
            "artifact": name,
            "MB": f"{size / 1e6:.2f}",
            "smaller": f"{full / size:.2f}x",
            "accuracy": f"{correct[name].mean():.4f}",
            "drop, 95 % interval": accuracy_drop(correct[name], correct["torch fp32"]),
        }
        for index, batch in enumerate(BATCHES):
            new = measured[name].latencies[index]
            row[f"b{batch} ms"] = milliseconds(new)
            for other in ("torch fp32", "int8"):
                row[f"b{batch} over {other}"] = speedup(measured[other].latencies[index], new)
        table.append(row)
    step = next(step for step in run.state["steps"] if "train" in step["name"])
    parts = [
        markdown(table),
        f"Accuracy on all {len(rows)} rows of dev. Latency at sequence {LENGTH}, {threads} threads, {options.turns} turns: medians "
        "of turns with quartiles; ratios with 95 % intervals. Each row adds one part to the row above it; the last is the recipe's artifact. Rows before *trained quantized* have "
        "scales from 512 rows of train, and those from there on the ones that training found. The training "
        f"took {step['seconds'] / 60:.0f} minutes. Settings: `{' '.join(options.sets) or 'as the recipe has them'}`.",
    ]
    command = "python benchmarks/joint.py --data-dir DATA_DIR --models-dir MODELS_DIR"
    write_results(
        "joint", "SST-2: trimmed, pruned, distilled and trained as int8 in one run", parts, ["onnxruntime"], command
    )


if __name__ == "__main__":
    main()
