"""Check a recipe, and carry it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leptonsdk.api.common import installed_plugins
from leptonsdk.hooks import Plugins
from leptonsdk.pipeline.display import Display
from leptonsdk.recipe import Plan, Recipe, make_plan

if TYPE_CHECKING:
    from leptonsdk.pipeline.run import Run


def plan(recipe: str | Path | Mapping[str, Any] | Recipe, *, overrides: Sequence[str] = ()) -> Plan:
    """Check a recipe against the installed plugins without loading anything.

    Raises:
        RecipeError: With every problem at once.
    """
    return make_plan(dict(recipe) if isinstance(recipe, Mapping) else recipe, installed_plugins(), overrides=overrides)


def compress(
    recipe: str | Path | Mapping[str, Any] | Recipe | Plan,
    out: str | Path,
    *,
    overrides: Sequence[str] = (),
    display: Display | None = None,
    plugins: Plugins | None = None,
) -> Run:
    """Carry out a recipe in a run folder: compress, export, evaluate, time, judge, report. Goes on where it stopped.

    Args:
        recipe: A YAML file, the same as a mapping, a `Recipe`, or a plan that is made already.
        out: The run folder.
        overrides: ``a.b=value`` to lay over the recipe.
        display: Where progress is shown; nowhere by default.
        plugins: Default: the installed ones.
    """
    from leptonsdk.pipeline.run import run_plan
    from leptonsdk.report import REPORT_FILE, write_report

    plugins = plugins or installed_plugins()
    if not isinstance(recipe, Plan):
        data = dict(recipe) if isinstance(recipe, Mapping) else recipe
        recipe = make_plan(data, plugins, overrides=overrides)
    run = run_plan(recipe, plugins, out, display)
    if run.worked or not (run.folder / REPORT_FILE).exists():
        write_report(run.folder, run.state)
    return run
