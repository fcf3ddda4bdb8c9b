"""The errors a user can meet: each says what happened, where, and what to do.

Every subclass carries the exit code that the command line ends with: 2 for wrong input (usage, recipe, data), 4 for work
that broke on the way. 0, 1 and 3 belong to the gate (pass, fail, inconclusive).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self


class LeptonError(Exception):
    """Base of all errors that leptonsdk raises on purpose.

    Args:
        message: What happened.
        where: The place: recipe line, plugin and version, step, layer or file.
        hint: What to do about it.
    """

    exit_code = 4
    plugin: str | None = None
    """Name, distribution and version of the plugin whose code raised it, as they stand in the message."""

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.message, self.where, self.hint = message, where, hint
        super().__init__(str(self))

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        advice = f" ({self.hint})" if self.hint else ""
        return f"{place}{self.message}{advice}"

    def within(self, place: str) -> Self:
        """This error, with what it happened in before its own place: a step, and the plugin with its version."""
        self.where = f"{place}, {self.where}" if self.where else place
        return self


class UsageError(LeptonError):
    """A call or an option that cannot mean anything."""

    exit_code = 2


class DataError(UsageError):
    """A dataset that cannot be found, read, or mapped to the columns that a task needs."""


class CheckpointError(UsageError):
    """A model that cannot be found, loaded, or saved in the asked form."""


class MissingPluginError(UsageError):
    """A name that no installed plugin provides."""


class ExportError(LeptonError):
    """A backend could not make an artifact, or made one that disagrees with the model."""


class EvaluationError(LeptonError):
    """Scores that cannot be computed or compared (missing metric, NaN, different examples)."""


class ScoresError(EvaluationError):
    """A metric, scores or examples that were asked for, and are not there or cannot be compared: others must be given."""

    exit_code = 2


class RunError(LeptonError):
    """A run folder that cannot be used, or a step that broke."""


class LeptonPendingDeprecationWarning(PendingDeprecationWarning):
    """There is something newer in the place of what was used, which will be deprecated some day."""


class LeptonDeprecationWarning(DeprecationWarning):
    """What was used goes with the next major version."""


class PluginError(LeptonError):
    """A plugin's code broke: its cause is what was raised there."""


class HubError(LeptonError):
    """The Hub cannot be reached, or does not do what was asked of it."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe: what, where (file and line), and the nearest valid word or other advice."""

    message: str
    path: str = ""
    file: str | None = None
    line: int | None = None
    hint: str | None = None
    severity: str = "error"

    def __str__(self) -> str:
        place = self.file or "recipe"
        if self.line is not None:
            place += f":{self.line}"
        key = f" {self.path}:" if self.path else ""
        advice = f" {self.hint}" if self.hint else ""
        return f"{place}:{key} {self.message}.{advice}" if self.hint else f"{place}:{key} {self.message}"


class RecipeError(UsageError):
    """Everything that is wrong with a recipe, at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def first_line(error: BaseException) -> str:
    """The first line of what a library's error says, or its type where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__


def nearest(word: str, valid: Iterable[str]) -> str | None:
    """The valid word closest to a mistyped one, or None when nothing is near."""
    matches = difflib.get_close_matches(word, list(valid), n=1, cutoff=0.6)
    return matches[0] if matches else None


def did_you_mean(word: str, valid: Iterable[str]) -> str:
    """``Did you mean 'x'?`` when a near word exists, else the list of the valid ones."""
    words = sorted(valid)
    if (near := nearest(word, words)) is not None:
        return f"Did you mean '{near}'?"
    return f"Valid: {', '.join(words)}" if words else "There is none to choose from"
