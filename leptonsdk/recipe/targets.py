"""Targets: what runs fast where, as data, held against a recipe's steps and exports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from leptonsdk.errors import Problem, UsageError, did_you_mean
from leptonsdk.recipe.source import Path_, RecipeSource

if TYPE_CHECKING:
    from leptonsdk.quantization.scheme import Scheme
    from leptonsdk.quantization.scheme_codebooks import CodebookScheme
    from leptonsdk.recipe.plan import Step

_FILE = Path(__file__).with_name("targets.yaml")


class Rule(BaseModel):
    """One choice that is a poor one on a target."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    plugin: tuple[str, ...] = Field(description="Backends or compressors that it is about, by name")
    where: dict[str, Any] = Field(
        default_factory=dict, description="Fields of the plugin's config; a list means any of them"
    )
    scheme: dict[str, Any] | None = Field(None, description="Weights carry integers, of a scheme with these fields")
    without_tasks: tuple[str, ...] = Field((), description="Tasks for which it does not hold")
    level: Literal["slow", "inaccurate", "unsupported"] = Field(description="What comes of the choice")
    says: str = Field(description="Why")
    instead: str = Field(description="A choice that is better there")
    source: str = Field(description="Where that is known from: a document, or a table of measurements")

    @field_validator("plugin", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class Target(BaseModel):
    """A kind of machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str
    backends: tuple[str, ...] = Field(description="Backends whose runtime is there")
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True)
class Choice:
    """A step or an export of a recipe, as rules see it.

    Attributes:
        step: With its validated config.
        place: In the recipe.
        schemes: Of the weights: a compressor's own, or all that an export gets.
    """

    step: Step
    place: Path_
    schemes: Sequence[Scheme | CodebookScheme]


@cache
def known_targets() -> Mapping[str, Target]:
    """The targets that come with the package, by name."""
    return _read(_FILE)


def find_target(name: str, base: Path) -> Target:
    """A target by its name, or the only one of a file.

    Raises:
        UsageError: No such name, or a file that describes no target.
    """
    if name in known_targets():
        return known_targets()[name]
    if not name.endswith((".yaml", ".yml")):
        raise UsageError(
            f"no target '{name}'", hint=did_you_mean(name, known_targets()) or f"known: {', '.join(known_targets())}"
        )
    if not (path := base / name).is_file():
        raise UsageError(f"there is no file '{name}'")
    found = _read(path)
    if len(found) != 1:
        raise UsageError(f"'{name}' describes {len(found)} targets", hint="one in each file")
    return next(iter(found.values()))


def check_targets(
    names: Any, choices: Sequence[Choice], task: str | None, source: RecipeSource, problems: list[Problem]
) -> None:
    """Warn of choices that are poor on a target; of several targets, on all of them."""
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not names:
        return
    targets: dict[str, Target] = {}
    for index, name in enumerate(names):
        try:
            targets[str(name)] = find_target(str(name), source.base)
        except UsageError as error:
            problems.append(source.problem(("target", index), error.message, error.hint))
    for choice in choices:
        found = {name: _findings(target, choice, task) for name, target in targets.items()}
        if all(found.values()):
            for name, findings in found.items():
                for message, hint in findings:
                    problems.append(source.problem(choice.place, f"on {name}: {message}", hint, "warning"))


def _findings(target: Target, choice: Choice, task: str | None) -> list[tuple[str, str]]:
    step = choice.step
    if step.kind == "export" and step.plugin not in target.backends:
        return [(f"{step.plugin} does not run there", f"Export to {' or '.join(target.backends)}.")]
    return [
        (f"{rule.level}: {rule.says}", f"Better: {rule.instead} ({rule.source}).")
        for rule in target.rules
        if _matches(rule, choice, task)
    ]


def _matches(rule: Rule, choice: Choice, task: str | None) -> bool:
    if choice.step.plugin not in rule.plugin or (task is not None and task in rule.without_tasks):
        return False
    config = choice.step.config
    if not all(_is(getattr(config, name, None), wanted) for name, wanted in rule.where.items()):
        return False
    if rule.scheme is None:
        return True
    wanted = rule.scheme
    return any(
        all(_is(getattr(scheme, name, None), value) for name, value in wanted.items()) for scheme in choice.schemes
    )


def _is(value: Any, wanted: Any) -> bool:
    """Whether a config's value, or one of several, is the wanted one, or one of those."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return any(one in (wanted if isinstance(wanted, list) else [wanted]) for one in values)


def _read(path: Path) -> dict[str, Target]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {str(name): Target.model_validate(target) for name, target in dict(content or {}).items()}
    except (yaml.YAMLError, ValidationError, TypeError, ValueError) as error:
        raise UsageError(f"'{path.name}' describes no target: {error}") from error
