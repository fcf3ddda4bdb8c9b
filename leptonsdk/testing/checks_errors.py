"""Checks of errors in the middle of a plugin's work: they come out, and say whose they are."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from leptonsdk.hooks import errors_named
from leptonsdk.hooks.naming import maker_of
from leptonsdk.quantization.layers import linear_layers
from leptonsdk.testing.backends import export, exportable, exported, run
from leptonsdk.testing.bench import compress, error_of, expect, home, made, skip_unless
from leptonsdk.testing.check import check
from leptonsdk.testing.evaluators import scoring
from leptonsdk.testing.interrupting import Breaking, BreakingRunner, Interrupted, Interrupting, training_methods
from leptonsdk.testing.models import tiny_checkpoint
from leptonsdk.testing.trainer import train

_DESCRIPTION = "an error in the middle of its work comes out, with the plugin's name and version, and is not swallowed"
_HINT = "catch only the errors that you know, and raise what you make of them"


def _error(plugin: type[Any], work: Callable[[], object]) -> BaseException | None:
    """The error of some work as it arrives through the door, or None."""

    def through_the_door() -> None:
        with errors_named(plugin):
            work()

    return error_of(through_the_door)


def _arrived(plugin: type[Any], error: BaseException | None, where: str) -> None:
    """Raise a `CheckFailed` unless an error has what the kit raised behind it, and names the plugin."""
    chain, one = [], error
    while one is not None:
        chain.append(one)
        one = one.__cause__ or one.__context__
    expect(any(isinstance(one, Interrupted) for one in chain), "it went on after an error", where, _HINT)
    _is_named(plugin, error, where)


def _is_named(plugin: type[Any], error: BaseException | None, where: str) -> None:
    name = f"plugin '{plugin.name}' ({maker_of(plugin)})"
    hint = "an error class of your own leaves `__str__` and `within` as `LeptonError` has them"
    expect(name in str(error), f"the error does not say that it is of {name}: {error}", where, hint)


@check("errors-come-out", _DESCRIPTION, "compressor")
def compressors_errors(plugin: type[Any], config: Mapping[str, Any]) -> None:
    name = home(plugin, config)
    for at in places(plugin, config, name):
        checkpoint = tiny_checkpoint(name)
        with Interrupting(at):
            error = _error(plugin, partial(compress, plugin, config, checkpoint))
        _arrived(plugin, error, f"{plugin.name}, torch call {at}")


def places(plugin: type[Any], config: Mapping[str, Any], name: str) -> tuple[int, ...]:
    """The torch calls of a compressor to interrupt at: one in the middle, and one close to the end."""
    checkpoint, counting = tiny_checkpoint(name), Interrupting()
    with counting:
        compress(plugin, config, checkpoint)
    calls = len(counting.calls)
    return tuple(sorted({calls // 2, calls * 9 // 10}))


@check("errors-come-out", _DESCRIPTION, "training")
def trainings_errors(plugin: type[Any], config: Mapping[str, Any]) -> None:
    methods, name = training_methods(plugin), home(plugin, config)

    def work(at: int | None) -> list[str]:
        checkpoint, interrupting = tiny_checkpoint(name), Interrupting(at, methods)
        with tempfile.TemporaryDirectory() as scratch, interrupting:
            train([made(plugin, config)], checkpoint, Path(scratch))
        return interrupting.calls

    calls = work(None)
    skip_unless(calls, "none of its methods calls a function of torch")
    for method in dict.fromkeys(calls):
        own = [number for number, caller in enumerate(calls, 1) if caller == method]
        at = own[len(own) // 2]
        _arrived(plugin, _error(plugin, partial(work, at)), f"{plugin.name}, a torch call in `{method}`")


@check("errors-come-out", _DESCRIPTION, "backend")
def backends_errors(plugin: type[Any], config: Mapping[str, Any]) -> None:
    name = exportable(plugin, config)
    model, inside, data = tiny_checkpoint(name), Breaking(), Breaking()
    layers = list(linear_layers(model.model).values())
    layers[len(layers) // 2].register_forward_pre_hook(inside.hook)
    calibrated = made(plugin, config).calibration() != "never"
    batches = {"samples": data.batches, "batches": data.batches if calibrated else None}
    for breaking, work, what in (
        (inside, partial(export, plugin, config, model), "a layer of the model"),
        (data, partial(export, plugin, config, tiny_checkpoint(name), **batches), "the data"),
    ):
        error = _error(plugin, work)
        if breaking.used:
            _arrived(plugin, error, f"{plugin.name}, export, where {what} breaks")
    artifact, where = exported(plugin, config), f"{plugin.name}, an artifact whose entry is gone"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(shutil.copytree(artifact.folder, Path(scratch) / "artifact"))
        entry = folder / artifact.entry
        (shutil.rmtree if entry.is_dir() else Path.unlink)(entry)
        damaged = dataclasses.replace(artifact, folder=folder)
        error = _error(plugin, partial(run, plugin, damaged, tiny_checkpoint(name)))
    expect(error is not None, "it runs all the same", where, _HINT)
    _is_named(plugin, error, where)


@check("errors-come-out", _DESCRIPTION, "evaluator")
def evaluators_errors(plugin: type[Any], config: Mapping[str, Any]) -> None:
    one = scoring(plugin, config)

    def work(at: int | None) -> int:
        runner = BreakingRunner(one.subject.runner, at)
        dataclasses.replace(one, subject=dataclasses.replace(one.subject, runner=runner)).columns(batch_size=1)
        return runner.runs

    runs = work(None)
    skip_unless(runs, "it does not run the model")
    _arrived(plugin, _error(plugin, partial(work, runs // 2 + 1)), f"{plugin.name}, where the runner breaks")
