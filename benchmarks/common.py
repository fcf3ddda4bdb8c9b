"""What the benchmarks share: their arguments, cells of their tables, and results written with versions, hardware and date."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from leptonsdk.checkpoint import Checkpoint
from leptonsdk.data.loading import Data
from leptonsdk.evaluation.harness import input_batches
from leptonsdk.evaluation.subjects import open_subject
from leptonsdk.evaluation.timing import Latency, shape_inputs
from leptonsdk.gating import paired_proportions, ratio_of_medians
from leptonsdk.hooks import EvaluationSettings, Plugins
from leptonsdk.pipeline.fingerprints import hardware, versions

T = TypeVar("T")

RESULTS = Path(__file__).parent / "results"


def arguments(description: str | None) -> argparse.ArgumentParser:
    """``--data-dir`` and ``--models-dir``, where the data and the models stand."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="Folder with the data sets.")
    parser.add_argument("--models-dir", type=Path, required=True, help="Folder with the models.")
    parser.add_argument("--work-dir", type=Path, default=Path("runs/benchmarks"), help="Where runs are kept.")
    return parser


def kept(file: Path, make: Callable[[], T]) -> T:
    """What ``make`` measures, kept in a JSON file, so that an interrupted benchmark goes on; deleted, it is measured anew."""
    if not file.is_file():
        found = make()
        print(f"{file.stem}: {found}", flush=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found), encoding="utf-8")
    measured: T = json.loads(file.read_text(encoding="utf-8"))
    return measured


def markdown(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as a table, with the columns of the first."""
    header = list(rows[0])
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(str(row.get(name, "")) for name in header) + " |" for row in rows]
    return "\n".join(lines)


def write_results(name: str, title: str, parts: Sequence[str], packages: Sequence[str], command: str) -> Path:
    """Write ``results/NAME.md`` and print it."""
    machine = hardware()
    found = {**versions(), **{package: importlib.metadata.version(package) for package in packages}}
    text = "\n\n".join(
        [
            f"# {title}",
            *parts,
            f"Measured {datetime.date.today()} on {machine['processor']}, {machine['cores']} cores, {machine['system']}; "
            + ", ".join(f"{package} {version}" for package, version in found.items())
            + ".",
            f"Reproduce: `{command}`",
        ]
    )
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.md"
    path.write_text(text + "\n", encoding="utf-8")
    print(text)
    return path


def inputs_of_shapes(
    model: Checkpoint, rows: Data, plugins: Plugins, batches: Sequence[int], length: int
) -> dict[tuple[int, int | None], Any]:
    """Inputs to time a model with, made from a real row: by batch size and length."""
    one = EvaluationSettings(batch_size=1)
    sample = next(input_batches(open_subject(model, plugins), rows, plugins, settings=one))
    return {(batch, length): shape_inputs(sample, batch, length) for batch in batches}


def milliseconds(latency: Latency) -> str:
    """The median of the turns, with quartiles."""
    low, high = latency.spread
    return f"{latency.median * 1e3:.2f} ({low * 1e3:.2f} to {high * 1e3:.2f})"


def speedup(old: Latency, new: Latency) -> str:
    """How many times as fast, with its 95 % interval (bootstrap of turns)."""
    found = ratio_of_medians(np.array(old.turns), np.array(new.turns), 0.95, seed=0)
    return f"{old.median / new.median:.2f}x [{found.low:.2f}, {found.high:.2f}]"


def accuracy_drop(right: NDArray[Any], base: NDArray[Any]) -> str:
    """The drop of an accuracy, with its 95 % interval, of two models' right answers to the same rows."""
    drop = paired_proportions(right, base, 0.95)
    return f"{base.mean() - right.mean():+.4f} [{drop.low:+.4f}, {drop.high:+.4f}]"
