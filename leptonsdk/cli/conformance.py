"""``lepton plugins check``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leptonsdk.cli import common

if TYPE_CHECKING:
    from leptonsdk.testing import CheckResult

_MARKS = {
    "passed": "[green]passed[/]",
    "failed": "[bold red]failed[/]",
    "skipped": "[dim]skipped[/]",
    "expected failure": "[yellow]expected failure[/]",
    "unexpected pass": "[bold red]unexpected pass[/]",
}


def plugins_check(
    name: Annotated[str, typer.Argument(help="A compressor's, backend's or evaluator's name, or a distribution's.")],
    as_json: common.Json = False,
) -> None:
    """Run the conformance kit on an installed plugin: exit code 0 when every check passes, 1 when some fail."""
    plugins = common.plugins()
    chosen = common.classes_meant(name, plugins)
    from transformers.utils import logging

    from leptonsdk.testing import run_checks

    logging.disable_progress_bar()
    answer: list[dict[str, Any]] = []
    for kind, own in chosen:
        results = run_checks(plugins.get(kind, own), notice=lambda result: None if as_json else _tell(result))
        answer.append({"name": own, "kind": kind, "plugin": plugins.owner(kind, own).label, "checks": results})
        if not as_json:
            _show(answer[-1])
    if as_json:
        shown = [{**one, "checks": [asdict(check) for check in one["checks"]]} for one in answer]
        typer.echo(json.dumps(shown, indent=2))
    if not all(check.ok for one in answer for check in one["checks"]):
        raise typer.Exit(1)


def _tell(result: CheckResult) -> None:
    """A sign of life on a terminal: checks take seconds."""
    screen = common.console()
    if screen.is_terminal:
        screen.print(f"  {result.name} …", style="dim", end="\r")


def _show(one: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("check", "state", "seconds", "message")
    table.columns[2].justify = "right"
    for check in one["checks"]:
        table.add_row(check.name, _MARKS[check.state], f"{check.seconds:.1f}", Text(check.message))
    screen = common.console()
    screen.print(f"{one['kind']} {one['name']}, of {one['plugin']}", highlight=False)
    screen.print(table)
    states = [check.state for check in one["checks"]]
    counts = [f"{states.count(state)} {state}" for state in _MARKS if state in states]
    screen.print(f"{len(states)} checks: {', '.join(counts)}\n")
