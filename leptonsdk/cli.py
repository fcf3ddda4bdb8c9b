"""The ``lepton`` command. Exit codes: 0 pass, 1 gate failed, 2 wrong usage or recipe, 3 inconclusive, 4 work that broke."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leptonsdk.errors import LeptonError, RecipeError, UsageError, did_you_mean

if TYPE_CHECKING:
    from leptonsdk.hooks import Plugins
    from leptonsdk.recipe import Plan

app = typer.Typer(
    name="lepton",
    help="Compress Hugging Face models, export them, and prove what it cost.\n\n"
    "Exit codes: 0 pass, 1 gate failed, 2 wrong usage or recipe, 3 inconclusive, 4 work that broke.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: importing rich would double the time to the first word
)
plugins_app = typer.Typer(help="The plugins of this environment.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(plugins_app, name="plugins")

_without: list[str] = []

Json = Annotated[bool, typer.Option("--json", help="Answer as JSON.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe: a.b=value.")]
Task = Annotated[str | None, typer.Option("--task", help="The Hub's task name; inferred when left out.")]
Column = Annotated[list[str] | None, typer.Option("--column", metavar="ROLE=COLUMN", help="Which column plays a role.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Use this many rows, drawn with the seed.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Examples per forward.")]
MaxLength = Annotated[int | None, typer.Option("--max-length", min=2, help="Longest input in tokens.")]
Seed = Annotated[int, typer.Option("--seed", min=0)]


@app.callback()
def _common(
    no_plugin: Annotated[
        list[str] | None, typer.Option("--no-plugin", metavar="NAME", help="Leave a plugin out.")
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        import leptonsdk

        typer.echo(leptonsdk.__version__)
        raise typer.Exit
    _without[:] = no_plugin or []


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="The recipe's file, or the name of one that comes with leptonsdk.")],
    out: Annotated[Path, typer.Option("--out", help="The run folder; an earlier run in it goes on.")],
    sets: Set = None,
    as_json: Json = False,
) -> None:
    """Carry out a recipe: compress, export, evaluate, time, judge, report."""
    from leptonsdk.recipe import make_plan

    plugins = _plugins()
    plan = make_plan(_recipe_file(recipe), plugins, overrides=sets or [])
    from leptonsdk.api import compress
    from leptonsdk.pipeline.display import Display, RichDisplay

    console = _console()
    if not as_json:
        _print_problems(plan)
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


@app.command()
def plan(
    recipe: Annotated[str, typer.Argument(help="The recipe's file, or the name of one that comes with leptonsdk.")],
    sets: Set = None,
    as_json: Json = False,
) -> None:
    """Check a recipe and say what it would do, without loading anything. Every problem is listed at once."""
    from leptonsdk.recipe import make_plan

    made = make_plan(_recipe_file(recipe), _plugins(), overrides=sets or [])
    if as_json:
        typer.echo(json.dumps(_plan_as_dict(made), indent=2))
        return
    _print_problems(made)
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


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="Hub id, folder, or package://name/sub.")],
    out: Annotated[Path, typer.Option("--out", help="The artifact's folder: new or empty.")],
    backend: Annotated[str, typer.Option("--backend", help="The backend's name.")] = "onnxruntime",
    precision: Annotated[str | None, typer.Option("--precision", help="One of the backend's precisions.")] = None,
    task: Task = None,
    calibration: Annotated[str | None, typer.Option("--calibration", help="Data for calibrated precisions.")] = None,
    samples: Annotated[str | None, typer.Option("--samples", help="Data whose first rows check parity.")] = None,
    column: Column = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", metavar="KEY=VALUE", help="More of the backend's config.")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Export a model to a runtime, and check the artifact against the model."""
    import yaml

    plugins = _plugins()
    plugins.get("backend", backend)
    from leptonsdk import api

    display, console = _display(as_json)
    with display.work("export", f"export to {backend}"):
        artifact = api.export(
            model,
            backend,
            out,
            precision=precision,
            task=task,
            calibration=calibration,
            samples=samples,
            columns=_pairs(column, "--column"),
            seed=seed,
            progress=display.progress,
            plugins=plugins,
            **{key: yaml.safe_load(value) for key, value in _pairs(option, "--option").items()},
        )
    answer = {
        "folder": str(artifact.folder),
        "backend": artifact.backend,
        "precision": artifact.precision,
        "entry": artifact.entry,
        "bytes": artifact.bytes_on_disk,
        "details": dict(artifact.details),
    }
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    else:
        console.print(f"{artifact.folder / artifact.entry}: {artifact.bytes_on_disk / 1e6:.1f} MB", soft_wrap=True)
        if parity := artifact.details.get("parity"):
            numbers = ", ".join(f"{key} {value:.3g}" for key, value in parity.items() if isinstance(value, float))
            console.print(f"Against torch: {numbers}")


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL_OR_ARTIFACT")],
    data: Annotated[str, typer.Option("--data", help="Hub id, file, folder, or a plugin's dataset.")],
    task: Task = None,
    metric: Annotated[list[str] | None, typer.Option("--metric", help="Metrics to keep; default: all.")] = None,
    split: Annotated[str | None, typer.Option("--split")] = None,
    column: Column = None,
    limit: Limit = None,
    batch_size: BatchSize = 32,
    max_length: MaxLength = None,
    baseline: Annotated[str | None, typer.Option("--baseline", help="For metrics that are a distance to it.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Keep the per-example scores (parquet).")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Score a model, or an exported artifact in its runtime."""
    plugins = _plugins()
    from leptonsdk import api

    display, console = _display(as_json)
    with display.work("evaluate", f"evaluate {Path(model).name}"):
        scores = api.evaluate(
            model,
            {"path": data, "split": split},
            task=task,
            metrics=metric,
            columns=_pairs(column, "--column"),
            limit=limit,
            batch_size=batch_size,
            max_length=max_length,
            baseline=baseline,
            seed=seed,
            progress=display.progress,
            plugins=plugins,
        )
    if out is not None:
        scores.save(out)
    if as_json:
        answer = {
            "model": scores.model,
            "runtime": scores.runtime,
            "examples": len(scores.ids),
            "values": scores.values(),
        }
        typer.echo(json.dumps(answer, indent=2))
    else:
        console.print(f"{scores.model} on {scores.data}, {len(scores.ids)} examples, {scores.runtime}", soft_wrap=True)
        for name, value in scores.values().items():
            console.print(f"  {name:<12} {value:.6g}")


@app.command()
def gate(
    baseline: Annotated[str, typer.Argument(help="A model, an artifact, or scores kept by `lepton evaluate --out`.")],
    candidate: Annotated[str, typer.Argument(help="The same.")],
    metric: Annotated[str, typer.Option("--metric", help="The metric that must not drop.")],
    max_drop: Annotated[float, typer.Option("--max-drop", min=0, help="The largest drop that is accepted.")],
    data: Annotated[str | None, typer.Option("--data", help="Needed unless both are scores.")] = None,
    task: Task = None,
    relative: Annotated[bool, typer.Option("--relative", help="The drop as a share of the baseline's value.")] = False,
    confidence: Annotated[float, typer.Option("--confidence", min=0.5, max=1)] = 0.95,
    split: Annotated[str | None, typer.Option("--split")] = None,
    column: Column = None,
    limit: Limit = None,
    batch_size: BatchSize = 32,
    max_length: MaxLength = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Judge whether a candidate lost too much: exit code 0 pass, 1 fail, 3 inconclusive."""
    plugins = _plugins()
    from leptonsdk import api
    from leptonsdk.evaluation.scores import Scores

    display, console = _display(as_json)
    scores = []
    for name in (baseline, candidate):
        if name.endswith(".parquet"):
            scores.append(Scores.load(name))
            continue
        if data is None:
            raise UsageError("--data is missing", where="lepton gate", hint="or give two .parquet files of scores")
        with display.work(name, f"evaluate {Path(name).name}"):
            scores.append(
                api.evaluate(
                    name,
                    {"path": data, "split": split},
                    task=task,
                    columns=_pairs(column, "--column"),
                    limit=limit,
                    batch_size=batch_size,
                    max_length=max_length,
                    baseline=baseline if name == candidate else None,
                    seed=seed,
                    progress=display.progress,
                    plugins=plugins,
                )
            )
    condition = {"max_drop": max_drop, "relative": relative, "confidence": confidence}
    result = api.gate(scores[0], scores[1], {metric: condition}, seed=seed)
    if as_json:
        typer.echo(json.dumps(result.as_dict(), indent=2))
    else:
        (judged,) = result.conditions
        low, high = judged.interval.low, judged.interval.high
        console.print(
            f"{metric}: {judged.baseline:.6g} -> {judged.candidate:.6g}, drop {judged.drop:.6g} "
            f"[{low:.6g}, {high:.6g}] at {confidence:.0%} ({judged.interval.method}), limit {max_drop:g}",
            soft_wrap=True,
        )
        console.print(f"Verdict: {result.verdict}")
    raise typer.Exit(result.exit_code)


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this one.")] = None,
    as_json: Json = False,
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


@plugins_app.command("list")
def plugins_list(as_json: Json = False) -> None:
    """What is installed: what works, what was set aside and why."""
    plugins = _plugins()
    if as_json:
        from dataclasses import asdict

        typer.echo(json.dumps([asdict(record) for record in plugins.records], indent=2))
        return
    for record in plugins.records:
        typer.echo(f"{record.name:<20} {record.status:<10} {record.distribution} {record.version}")
        for kind, names in record.provides.items():
            typer.echo(f"{'':<20} {kind}: {', '.join(names)}")
        if record.reason and record.status != "active":
            typer.echo(f"{'':<20} {record.reason}")


@app.command()
def doctor(as_json: Json = False) -> None:
    """What is installed, what works here, and what to install."""
    from leptonsdk.doctor import diagnose

    findings = diagnose(_plugins())
    if as_json:
        typer.echo(json.dumps(findings, indent=2))
        return
    marks = {"ok": "ok     ", "missing": "missing", "broken": "BROKEN "}
    for finding in findings:
        typer.echo(f"{marks[finding['state']]} {finding['name']:<22} {finding['detail']}")
        if finding.get("advice"):
            typer.echo(f"        {finding['advice']}")
    if any(finding["state"] == "broken" for finding in findings):
        raise typer.Exit(4)


def main() -> None:
    """The console script: errors become one message and an exit code."""
    # Libraries' own chatter would bury what the user asked for; each variable can still be set.
    for name, value in {
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)
    try:
        app()
    except LeptonError as error:
        _report_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("Interrupted. The same command goes on where it stopped.", err=True)
        sys.exit(130)


def _report_error(error: LeptonError) -> None:
    if "--json" in sys.argv:
        from dataclasses import asdict

        problems = [asdict(problem) for problem in error.problems] if isinstance(error, RecipeError) else []
        typer.echo(json.dumps({"error": str(error), "exit_code": error.exit_code, "problems": problems}, indent=2))
        return
    if isinstance(error, RecipeError):
        count = len(error.problems)
        typer.echo(f"{count} problem{'s' if count > 1 else ''} in the recipe:", err=True)
        for problem in error.problems:
            typer.echo(f"  {problem}", err=True)
        return
    typer.echo(f"Error: {error}", err=True)


def _plugins() -> Plugins:
    from leptonsdk.hooks import load_plugins

    return load_plugins(without=_without)


def _recipe_file(recipe: str) -> str | Path:
    from leptonsdk.recipe.library import shipped_recipes

    if Path(recipe).suffix or "/" in recipe or Path(recipe).exists():
        return recipe
    shipped = shipped_recipes()
    if recipe in shipped:
        return shipped[recipe]
    raise UsageError(f"no recipe '{recipe}'", hint=f"a file, or one of leptonsdk's: {', '.join(shipped)}")


def _console() -> Any:
    from rich.console import Console

    return Console()


def _display(as_json: bool) -> tuple[Any, Any]:
    from leptonsdk.pipeline.display import Display, RichDisplay

    console = _console()
    return (Display() if as_json else RichDisplay(console)), console


def _pairs(values: list[str] | None, option: str) -> dict[str, str]:
    pairs = {}
    for value in values or ():
        key, equals, rest = value.partition("=")
        if not equals:
            raise UsageError(f"'{value}' is not KEY=VALUE", where=option)
        pairs[key] = rest
    return pairs


def _print_problems(plan: Plan) -> None:
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


if __name__ == "__main__":
    main()
