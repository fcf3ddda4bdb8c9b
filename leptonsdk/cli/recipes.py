"""``lepton run``, ``plan`` and ``recipes``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leptonsdk.cli import common
from leptonsdk.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from leptonsdk.recipe import Plan


def run(
    recipe: Annotated[str, typer.Argument(help="The recipe's file, or the name of one that comes with leptonsdk.")],
    out: Annotated[Path, typer.Option("--out", help="The run folder; an earlier run in it goes on.")],
    sets: common.Set = None,
    as_json: common.Json = False,
) -> None:
    """Carry out a recipe: compress, export, evaluate, time, judge, report."""
    from leptonsdk.recipe import make_plan

    plugins = common.plugins()
    plan = make_plan(common.recipe_file(recipe), plugins, overrides=sets or [])
    from leptonsdk.api import compress
    from leptonsdk.pipeline.display import Display, RichDisplay

    console = common.console()
    if not as_json:
        _print_warnings(plan)
    done = compress(plan, out, plugins=plugins, display=Display() if as_json else RichDisplay(console))
    if as_json:
        typer.echo(json.dumps({key: value for key, value in done.state.items() if key != "work"}, indent=2))
    else:
        from leptonsdk.report import summary

        if not done.worked:
            console.print("Nothing to do: every step is done already, for the same recipe, data and versions.")
        console.print(summary(done.state))
        console.print(f"Report: {out / 'report.html'}", soft_wrap=True)
    raise typer.Exit(done.state["exit_code"])


def plan(
    recipe: Annotated[str, typer.Argument(help="The recipe's file, or the name of one that comes with leptonsdk.")],
    sets: common.Set = None,
    as_json: common.Json = False,
) -> None:
    """Check a recipe and say what it would do, without loading anything. Every problem is listed at once."""
    from leptonsdk.recipe import make_plan

    made = make_plan(common.recipe_file(recipe), common.plugins(), overrides=sets or [])
    if as_json:
        typer.echo(json.dumps(_plan_as_dict(made), indent=2))
        return
    _print_warnings(made)
    typer.echo(f"{made.model.name} ({made.task or 'task inferred on loading'})")
    for step in (*made.steps, *made.exports):
        settings = ", ".join(f"{key}={value}" for key, value in step.config.model_dump(exclude_unset=True).items())
        typer.echo(f"  {step.kind:<8} {step.name}  [{step.provider} {step.version}]  {settings}")
    gate = made.recipe.gate
    conditions = (
        0
        if gate is None
        else len(gate.metrics) + len(gate.latency) + (gate.size is not None) + (gate.memory is not None)
    )
    typer.echo(f"  gate     {conditions} conditions" if gate else "  gate     none: nothing will be judged")


def list_recipes(
    name: Annotated[str | None, typer.Argument(help="Print this one.")] = None,
    as_json: common.Json = False,
) -> None:
    """The recipes that come with leptonsdk; with a name, that recipe's text."""
    from leptonsdk.recipe.library import describe_recipe, shipped_recipes

    shipped = shipped_recipes()
    if name is not None:
        if name not in shipped:
            raise UsageError(f"no recipe named '{name}'", hint=did_you_mean(name, shipped))
        typer.echo(shipped[name].read_text(encoding="utf-8"), nl=False)
        return
    described = {recipe: describe_recipe(path) for recipe, path in shipped.items()}
    if as_json:
        typer.echo(json.dumps(described, indent=2))
        return
    for recipe, text in described.items():
        typer.echo(f"{recipe:<24} {text}")


def list_targets(as_json: common.Json = False) -> None:
    """Where a recipe's result can run (`target: NAME`), and what is slow or unsupported there."""
    from leptonsdk.recipe.targets import known_targets

    targets = known_targets()
    if as_json:
        typer.echo(json.dumps({name: target.model_dump(mode="json") for name, target in targets.items()}, indent=2))
        return
    for name, target in targets.items():
        typer.echo(f"{name:<10} {target.description} (backends: {', '.join(target.backends)})")
        for rule in target.rules:
            settings = ", ".join(
                f"{key} {_either(value)}" for key, value in {**rule.where, **(rule.scheme or {})}.items()
            )
            what = f"{' or '.join(rule.plugin)}{f' with {settings}' if settings else ''}"
            typer.echo(f"  {rule.level}: {what}. {rule.says[0].upper()}{rule.says[1:]}. Better: {rule.instead}.")


def _either(value: Any) -> str:
    return " or ".join(map(str, value)) if isinstance(value, list) else str(value)


def _print_warnings(plan: Plan) -> None:
    for problem in plan.warnings:
        typer.echo(f"Warning: {problem}", err=True)


def _plan_as_dict(plan: Plan) -> dict[str, Any]:
    return {
        "model": {"name": plan.model.name, "kind": plan.model.kind, "task": plan.task},
        "steps": [
            {
                "name": step.name,
                "kind": step.kind,
                "plugin": step.plugin,
                "provider": step.provider,
                "version": step.version,
                "config": step.config.model_dump(mode="json"),
            }
            for step in (*plan.steps, *plan.exports)
        ],
        "recipe": plan.recipe.model_dump(mode="json"),
        "warnings": [str(problem) for problem in plan.warnings],
    }
