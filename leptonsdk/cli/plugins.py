"""``lepton plugins list`` and ``new``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from leptonsdk.cli import common


def list_plugins(as_json: common.Json = False) -> None:
    """What is installed: what works, what was set aside and why."""
    plugins = common.plugins()
    if as_json:
        from dataclasses import asdict

        typer.echo(json.dumps([asdict(record) for record in plugins.records], indent=2))
        return
    for record in plugins.records:
        typer.echo(f"{record.name:<20} {record.status:<10} {record.distribution} {record.version}")
        for kind, names in record.provides.items():
            typer.echo(f"{'':<20} {kind}: {', '.join(names)}")
        if record.reason:
            typer.echo(f"{'':<20} {record.reason}")


def new(
    name: Annotated[str, typer.Argument(help="The plugin's name: recipes will call it by it.")],
    kind: Annotated[str, typer.Option("--kind", help="compressor, training, backend or evaluator.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The folder: new or empty. Default: leptonsdk-NAME.")
    ] = None,
    as_json: common.Json = False,
) -> None:
    """Write a plugin that works as it stands, with its tests: a distribution leptonsdk-NAME to change into yours."""
    from leptonsdk.scaffold import new_plugin

    made = new_plugin(name, kind, common.plugins(), out)
    if as_json:
        from dataclasses import asdict

        answer = {"folder": str(made.folder), **asdict(made.names), "files": list(made.files)}
        typer.echo(json.dumps(answer, indent=2))
        return
    for file in made.files:
        typer.echo(made.folder / file)
    typer.echo(
        f'\nNext: cd {made.folder}; pip install -e ".[test]"; python -m pytest; lepton run recipe.yaml --out runs/first'
    )
