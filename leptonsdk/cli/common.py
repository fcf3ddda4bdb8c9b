"""What the commands share: their options, and how they open plugins, recipes and displays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leptonsdk.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from leptonsdk.hooks import Plugins

without: list[str] = []
"""Plugins that ``--no-plugin`` leaves out, for this process."""

Json = Annotated[bool, typer.Option("--json", help="Answer as JSON.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe: a.b=value.")]
Task = Annotated[str | None, typer.Option("--task", help="The Hub's task name; inferred when left out.")]
Column = Annotated[list[str] | None, typer.Option("--column", metavar="ROLE=COLUMN", help="Which column plays a role.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Use this many rows, drawn with the seed.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Examples per forward.")]
MaxLength = Annotated[int | None, typer.Option("--max-length", min=2, help="Longest input in tokens.")]
Seed = Annotated[int, typer.Option("--seed", min=0)]


def plugins() -> Plugins:
    from leptonsdk.hooks import load_plugins

    return load_plugins(without=without)


def classes_meant(name: str, plugins: Plugins) -> list[tuple[str, str]]:
    """Kind and name of each class that a name means: one, or all of a distribution."""
    kinds = ("compressor", "backend", "evaluator")
    classes = [(kind, own) for kind in kinds for own in plugins.names(kind)]
    found = [one for one in classes if one[1] == name]
    if not found:
        found = [one for one in classes if name in (plugins.owner(*one).distribution, plugins.owner(*one).name)]
    if found:
        return found
    for record in plugins.records:
        if record.status != "active" and name in (record.name, record.distribution):
            raise UsageError(f"plugin {record.label} was set aside: {record.reason}")
    valid = {own for _, own in classes} | {plugins.owner(*one).distribution for one in classes}
    raise UsageError(f"no plugin named '{name}'", hint=did_you_mean(name, valid))


def recipe_file(recipe: str) -> str | Path:
    from leptonsdk.recipe.library import shipped_recipes

    if Path(recipe).suffix or "/" in recipe or Path(recipe).exists():
        return recipe
    shipped = shipped_recipes()
    if recipe in shipped:
        return shipped[recipe]
    raise UsageError(f"no recipe '{recipe}'", hint=f"a file, or one of leptonsdk's: {', '.join(shipped)}")


def console() -> Any:
    from rich.console import Console

    return Console()


def display(as_json: bool) -> tuple[Any, Any]:
    from leptonsdk.pipeline.display import Display, RichDisplay

    screen = console()
    return (Display() if as_json else RichDisplay(screen)), screen


def options(values: list[str] | None) -> dict[str, Any]:
    """``--option KEY=VALUE``, each value read as a recipe's would be."""
    import yaml

    return {key: yaml.safe_load(value) for key, value in pairs(values, "--option").items()}


def pairs(values: list[str] | None, option: str) -> dict[str, str]:
    found = {}
    for value in values or ():
        key, equals, rest = value.partition("=")
        if not equals:
            raise UsageError(f"'{value}' is not KEY=VALUE", where=option)
        found[key] = rest
    return found
