"""The ``lepton`` command. Exit codes: 0 pass, 1 gate failed, 2 wrong usage or recipe, 3 inconclusive, 4 work that broke."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from typing import Annotated

import typer

from leptonsdk.cli import common, conformance, environment, hub, models, plugins, recipes
from leptonsdk.errors import LeptonError, RecipeError

_INTERRUPTED = 130  # what typer makes of Ctrl-C
_GO_ON = {"run", "reproduce", "push"}

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

app.command()(recipes.run)
app.command()(recipes.plan)
app.command()(models.export)
app.command()(models.evaluate)
app.command()(models.gate)
app.command()(hub.push)
app.command()(hub.verify)
app.command()(hub.reproduce)
app.command("recipes")(recipes.list_recipes)
app.command("targets")(recipes.list_targets)
app.command()(environment.doctor)
plugins_app.command("list")(plugins.list_plugins)
plugins_app.command()(plugins.show)
plugins_app.command()(plugins.new)
plugins_app.command("check")(conformance.plugins_check)


def _print_version(asked: bool) -> None:
    if asked:
        import leptonsdk

        typer.echo(leptonsdk.__version__)
        raise typer.Exit


@app.callback()
def _common(
    no_plugin: Annotated[
        list[str] | None, typer.Option("--no-plugin", metavar="NAME", help="Leave a plugin, or a distribution's, out.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    common.without[:] = no_plugin or []


def main() -> None:
    """The console script: errors become one message and an exit code."""
    # Libraries' own chatter would bury what the user asked for; each variable can still be set. But an upload may be long,
    # and only the Hub's client knows how far it is: in a terminal its bars are shown.
    uploads = "push" in sys.argv and sys.stderr.isatty()
    for name, value in {
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "0" if uploads else "1",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)
    # torchao, which transformers imports wherever it is installed, tells of the GPU kernels that it cannot load on a CPU.
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        app()
    except LeptonError as error:
        _report_error(error)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            goes_on = " The same command goes on where it stopped." if _GO_ON & {*sys.argv} else ""
            typer.echo(f"Interrupted.{goes_on}", err=True)
        raise
    except OSError as error:  # a folder that cannot be written, a full disk
        _report_error(LeptonError(str(error)))
        sys.exit(LeptonError.exit_code)
    except Exception:  # python's own exit code, 1, would say that a gate failed
        traceback.print_exc()
        sys.exit(LeptonError.exit_code)


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
