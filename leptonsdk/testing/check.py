"""What a check is, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from leptonsdk.errors import LeptonError
from leptonsdk.hooks import Backend, Compressor, Evaluator, TrainingCompressor

Kind = Literal["compressor", "training", "backend", "evaluator"]
State = Literal["passed", "failed", "skipped", "expected failure", "unexpected pass"]
Run = Callable[[type[Any], Mapping[str, Any]], None]


class CheckFailed(LeptonError):  # noqa: N818  an outcome
    """A plugin does not keep what it declares, or what every plugin must: what, where, and what to do."""


class CheckSkipped(LeptonError):  # noqa: N818
    """A check that has nothing to say with this config."""


@dataclass(frozen=True)
class Check:
    """One thing that is asked of a plugin.

    Attributes:
        name: In kebab-case, as expected failures name it.
        description: One line: what a plugin that passes does.
        run: ``run(plugin_class, config)``; raises a `CheckFailed`, or a `CheckSkipped` where the config leaves nothing to check.
        applies: Whether it is asked of a plugin class, by its kind and its declared capabilities.
    """

    name: str
    description: str
    run: Run
    applies: Callable[[type[Any]], bool]


@dataclass(frozen=True)
class CheckResult:
    """What a check found. ``message`` says what is wrong, or why it was skipped or expected to fail."""

    name: str
    state: State
    seconds: float
    message: str = ""

    @property
    def ok(self) -> bool:
        return self.state not in ("failed", "unexpected pass")


def kind_of(plugin: type[Any]) -> Kind:
    """Which of the four kinds a plugin class is."""
    if issubclass(plugin, Compressor):
        return "training" if issubclass(plugin, TrainingCompressor) else "compressor"
    if issubclass(plugin, Backend):
        return "backend"
    if issubclass(plugin, Evaluator):
        return "evaluator"
    raise TypeError(f"{plugin!r} is no compressor, backend or evaluator")


COMPRESSORS: tuple[Kind, ...] = ("compressor", "training")


def check(
    name: str, description: str, *kinds: Kind, when: Callable[[type[Any]], bool] = lambda plugin: True
) -> Callable[[Run], Check]:
    """Make a function a check of some kinds of plugins, of those that ``when`` is true of."""

    def make(run: Run) -> Check:
        return Check(name, description, run, lambda plugin: kind_of(plugin) in kinds and when(plugin))

    return make


def found(checks: Mapping[str, Any]) -> tuple[Check, ...]:
    """The checks of a module, given its ``globals()``, in the order in which they stand there."""
    return tuple(value for value in checks.values() if isinstance(value, Check))
