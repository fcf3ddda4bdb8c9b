"""What the benchmarks share: their arguments, and tables written with versions, hardware and date."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path

from leptonsdk.pipeline.fingerprints import hardware, versions

RESULTS = Path(__file__).parent / "results"


def arguments(description: str | None) -> argparse.ArgumentParser:
    """``--data-dir`` and ``--models-dir``, where the data and the models stand."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="Folder with the data sets.")
    parser.add_argument("--models-dir", type=Path, required=True, help="Folder with the models.")
    parser.add_argument("--work-dir", type=Path, default=Path("runs/benchmarks"), help="Where runs are kept.")
    return parser


def markdown(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows of the same keys as a table."""
    header = list(rows[0])
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(str(row[name]) for name in header) + " |" for row in rows]
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
