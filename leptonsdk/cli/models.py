"""``lepton export``, ``evaluate`` and ``gate``: one thing at a time, without a recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from leptonsdk.cli import common
from leptonsdk.errors import UsageError


def export(
    model: Annotated[str, typer.Argument(help="Hub id, folder, or package://name/sub.")],
    out: Annotated[Path, typer.Option("--out", help="The artifact's folder: new or empty.")],
    backend: Annotated[str, typer.Option("--backend", help="The backend's name.")] = "onnxruntime",
    precision: Annotated[str | None, typer.Option("--precision", help="One of the backend's precisions.")] = None,
    task: common.Task = None,
    calibration: Annotated[str | None, typer.Option("--calibration", help="Data for calibrated precisions.")] = None,
    samples: Annotated[str | None, typer.Option("--samples", help="Data whose first rows check parity.")] = None,
    column: common.Column = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", metavar="KEY=VALUE", help="More of the backend's config.")
    ] = None,
    seed: common.Seed = 0,
    as_json: common.Json = False,
) -> None:
    """Export a model to a runtime, and check the artifact against the model."""
    plugins = common.plugins()
    plugins.get("backend", backend)
    from leptonsdk import api

    display, console = common.display(as_json)
    with display.work("export", f"export to {backend}"):
        artifact = api.export(
            model,
            backend,
            out,
            precision=precision,
            task=task,
            calibration=calibration,
            samples=samples,
            columns=common.pairs(column, "--column"),
            seed=seed,
            progress=display.progress,
            plugins=plugins,
            **common.options(option),
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


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL_OR_ARTIFACT")],
    data: Annotated[str, typer.Option("--data", help="Hub id, file, folder, or a plugin's dataset.")],
    task: common.Task = None,
    metric: Annotated[list[str] | None, typer.Option("--metric", help="Metrics to keep; default: all.")] = None,
    split: Annotated[str | None, typer.Option("--split")] = None,
    column: common.Column = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", metavar="KEY=VALUE", help="Option of the task (max_new_tokens=64).")
    ] = None,
    limit: common.Limit = None,
    batch_size: common.BatchSize = 32,
    max_length: common.MaxLength = None,
    baseline: Annotated[str | None, typer.Option("--baseline", help="For metrics that are a distance to it.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Keep the per-example scores (parquet).")] = None,
    seed: common.Seed = 0,
    as_json: common.Json = False,
) -> None:
    """Score a model, or an exported artifact in its runtime."""
    plugins = common.plugins()
    from leptonsdk import api

    display, console = common.display(as_json)
    with display.work("evaluate", f"evaluate {Path(model).name}"):
        scores = api.evaluate(
            model,
            {"path": data, "split": split},
            task=task,
            metrics=metric,
            columns=common.pairs(column, "--column"),
            options=common.options(option),
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


def gate(
    baseline: Annotated[str, typer.Argument(help="A model, an artifact, or scores kept by `lepton evaluate --out`.")],
    candidate: Annotated[str, typer.Argument(help="The same.")],
    metric: Annotated[str, typer.Option("--metric", help="The metric that must not drop.")],
    max_drop: Annotated[float, typer.Option("--max-drop", min=0, help="The largest drop that is accepted.")],
    data: Annotated[str | None, typer.Option("--data", help="Needed unless both are scores.")] = None,
    task: common.Task = None,
    relative: Annotated[bool, typer.Option("--relative", help="The drop as a share of the baseline's value.")] = False,
    confidence: Annotated[float, typer.Option("--confidence", min=0.5, max=1)] = 0.95,
    split: Annotated[str | None, typer.Option("--split")] = None,
    column: common.Column = None,
    limit: common.Limit = None,
    batch_size: common.BatchSize = 32,
    max_length: common.MaxLength = None,
    seed: common.Seed = 0,
    as_json: common.Json = False,
) -> None:
    """Judge whether a candidate lost too much: exit code 0 pass, 1 fail, 3 inconclusive."""
    plugins = common.plugins()
    from leptonsdk import api
    from leptonsdk.evaluation.scores import Scores

    display, console = common.display(as_json)
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
                    columns=common.pairs(column, "--column"),
                    limit=limit,
                    batch_size=batch_size,
                    max_length=max_length,
                    baseline=baseline if name == candidate and not baseline.endswith(".parquet") else None,
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
