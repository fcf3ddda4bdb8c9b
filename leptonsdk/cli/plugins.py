"""``lepton plugins list``, ``show`` and ``new``."""

from __future__ import annotations

import json
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

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


def show(
    name: Annotated[str, typer.Argument(help="A compressor's, backend's or evaluator's name, or a distribution's.")],
    as_json: common.Json = False,
) -> None:
    """What a recipe can say to a plugin: every option, with its default and what it means."""
    plugins = common.plugins()
    chosen = [(kind, own, plugins.get(kind, own)) for kind, own in common.classes_meant(name, plugins)]
    if as_json:
        schemas = [
            {"kind": kind, "name": own, "config": cls.config_class.model_json_schema() if kind != "evaluator" else None}
            for kind, own, cls in chosen
        ]
        typer.echo(json.dumps(schemas, indent=2))
        return
    from pydantic_core import to_jsonable_python
    from rich.table import Table
    from rich.text import Text

    screen = common.console()
    for kind, own, cls in chosen:
        screen.print(f"{kind} {own}, of {plugins.owner(kind, own).label}", highlight=False)
        screen.print(f"  {(cls.__doc__ or '').strip().splitlines()[0]}", highlight=False, markup=False)
        if kind == "evaluator":
            screen.print(f"  metrics: {', '.join(metric.name for metric in cls.metrics)}", highlight=False)
            continue
        table = Table("option", "type", "default", "meaning")
        for option, field in cls.config_class.model_fields.items():
            default = "required"
            if not field.is_required():
                default = json.dumps(to_jsonable_python(field.get_default(call_default_factory=True)))
            table.add_row(option, *map(Text, (_type_name(field.annotation), default, field.description or "")))
        screen.print(table)


def _type_name(annotation: Any) -> str:
    """A field's type as one would write it, without constraints."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(parts[0])
    if origin is Literal:
        return " | ".join(map(str, parts))
    if origin in (Union, UnionType):
        return " | ".join(map(_type_name, parts))
    if annotation in (None, type(None)):
        return "None"
    if parts:
        inner = ", ".join("..." if part is Ellipsis else _type_name(part) for part in parts)
        return f"{getattr(origin, '__name__', origin)}[{inner}]"
    return str(getattr(annotation, "__name__", annotation))


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
