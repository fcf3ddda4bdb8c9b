"""Plans: a recipe resolved against the installed plugins, before a weight is loaded. All problems are listed at once."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from leptonsdk.errors import Problem, RecipeError, did_you_mean
from leptonsdk.hooks import PluginConfig, Plugins, errors_named
from leptonsdk.recipe import checks
from leptonsdk.recipe.checks_shapes import check_shapes
from leptonsdk.recipe.schema import Recipe
from leptonsdk.recipe.source import Path_, RecipeSource, read_recipe
from leptonsdk.recipe.targets import Choice, check_targets
from leptonsdk.recipe.training import TRAIN, TrainConfig
from leptonsdk.references import Reference


@dataclass(frozen=True)
class Step:
    """One thing to do: a compressor over the checkpoint, a training run, or a backend's export of the last one.

    ``name`` is unique in the plan and is the step's folder name: ``01-rtn``, ``onnxruntime-int8-dynamic``. ``parts`` are the
    compressors that act inside a training run.
    """

    name: str
    kind: Literal["compress", "train", "export"]
    plugin: str
    config: PluginConfig
    provider: str
    version: str
    parts: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A recipe that can be run."""

    recipe: Recipe
    model: Reference
    task: str | None
    steps: tuple[Step, ...]
    exports: tuple[Step, ...]
    warnings: tuple[Problem, ...] = ()
    file: str | None = None
    base: Path = field(default_factory=Path)


def make_plan(recipe: str | Path | dict[str, Any] | Recipe, plugins: Plugins, *, overrides: Sequence[str] = ()) -> Plan:
    """Resolve a recipe.

    Args:
        recipe: A YAML file, the same as a mapping, or a `Recipe`.
        plugins: The installed plugins.
        overrides: ``a.b=value`` to lay over it.

    Raises:
        RecipeError: With every problem, each with file, line and advice.
    """
    if isinstance(recipe, Recipe):
        recipe = recipe.model_dump(mode="json", exclude_unset=True)
    source = read_recipe(recipe, overrides)
    problems = list(source.problems)
    parsed = _validate(Recipe, source.data, (), source, problems)
    # What the schema refused in one section must not hide what is wrong in another: the checks below read the plain data.
    data = source.data if isinstance(source.data, dict) else {}
    model, task = checks.check_model(data.get("model"), source, plugins, problems)
    steps = _resolve(data.get("steps"), "compress", source, plugins, problems)
    exports = _resolve(data.get("export"), "export", source, plugins, problems)
    with errors_named(*_chosen(steps, exports, plugins), foreign=True):
        checks.check_data(data.get("data"), task, source, plugins, problems)
        checks.check_evaluation(data, task, source, plugins, problems)
        checks.check_order(steps, exports, data, source, plugins, problems)
        check_targets(data.get("target"), _choices(steps, exports, plugins), task, source, problems)
        if not any(problem.severity == "error" for problem in problems):
            check_shapes(model, task, steps, source, plugins, problems)
    warnings = tuple(problem for problem in problems if problem.severity == "warning")
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors or parsed is None or model is None:
        raise RecipeError(sorted(errors, key=lambda problem: problem.line or 0))
    return Plan(
        parsed,
        model,
        task,
        tuple(s for s in steps if s),
        tuple(s for s in exports if s),
        warnings,
        source.file,
        source.base,
    )


def _resolve(
    entries: Any, kind: Literal["compress", "export"], source: RecipeSource, plugins: Plugins, problems: list[Problem]
) -> list[Step | None]:
    """Every entry's plugin and validated config; None where there is a problem, so that positions are kept."""
    section, plugin_kind = ("steps", "compressor") if kind == "compress" else ("export", "backend")
    resolved: list[Step | None] = []
    if not isinstance(entries, list):
        return resolved
    taken: set[str] = set()
    for index, entry in enumerate(entries):
        path: Path_ = (section, index)
        if isinstance(entry, str):
            entry = {entry: {}}
        if kind == "compress" and isinstance(entry, dict) and list(entry) == [TRAIN]:
            resolved.append(_resolve_train(entry[TRAIN] or {}, index, source, plugins, problems))
            continue
        found = _resolve_plugin(entry, plugin_kind, path, source, plugins, problems)
        if found is None:
            resolved.append(None)
            continue
        name, config = found
        label = f"{index + 1:02d}-{name}" if kind == "compress" else _export_label(name, config)
        if label in taken:
            problems.append(source.problem(path, f"'{label}' is exported twice"))
        taken.add(label)
        owner = plugins.owner(plugin_kind, name)
        resolved.append(Step(label, kind, name, config, owner.distribution, owner.version))
    return resolved


def _chosen(steps: Sequence[Step | None], exports: Sequence[Step | None], plugins: Plugins) -> list[type[Any]]:
    """The classes of all steps and exports."""
    parts = [part for step in steps if step for part in (step.parts if step.kind == "train" else (step,))]
    compressors = [plugins.get("compressor", part.plugin) for part in parts]
    return compressors + [plugins.get("backend", export.plugin) for export in exports if export]


def _choices(steps: Sequence[Step | None], exports: Sequence[Step | None], plugins: Plugins) -> list[Choice]:
    """The steps and exports as a target's rules see them."""
    choices, schemes = [], []
    for index, step in enumerate(steps):
        parts: Sequence[Step] = () if step is None else step.parts or (() if step.kind == "train" else (step,))
        for place, part in enumerate(parts):
            compressor = plugins.get("compressor", part.plugin)(part.config)
            scheme = compressor.scheme()
            path: Path_ = ("steps", index, part.plugin)
            if step is not None and step.kind == "train":
                path = ("steps", index, TRAIN, "with", place, part.plugin)
            choices.append(Choice(part, path, () if scheme is None else (scheme,)))
            # Scales of activations make a backend choose an integer product, whatever the weights' scheme is.
            if scheme is not None and "calibrates" not in compressor.effects():
                schemes.append(scheme)
    for index, export in enumerate(exports):
        if export is not None:
            choices.append(Choice(export, ("export", index, export.plugin), schemes))
    return choices


def _export_label(name: str, config: PluginConfig) -> str:
    precision = getattr(config, "precision", "auto")
    return name if precision == "auto" else f"{name}-{precision}"


def _resolve_plugin(
    entry: Any, kind: str, path: Path_, source: RecipeSource, plugins: Plugins, problems: list[Problem]
) -> tuple[str, PluginConfig] | None:
    """The plugin that an entry names and its validated config; None where there is a problem."""
    if not isinstance(entry, dict) or len(entry) != 1:
        if isinstance(entry, dict):
            problems.append(source.problem(path, f"each entry names one {kind}, this one {len(entry)}"))
        return None
    ((name, options),) = entry.items()
    if name not in plugins.names(kind):
        problems.append(source.problem((*path, name), f"no {kind} named '{name}'", plugins.advice(kind, name)))
        return None
    config = _validate(plugins.get(kind, name).config_class, options or {}, (*path, name), source, problems)
    return None if config is None else (name, config)


def _resolve_train(
    options: Any, index: int, source: RecipeSource, plugins: Plugins, problems: list[Problem]
) -> Step | None:
    """The step of a training run with its compressors."""
    path: Path_ = ("steps", index, TRAIN)
    config = _validate(TrainConfig, options, path, source, problems)
    if config is None:
        return None
    parts = []
    for position, entry in enumerate(config.compressors):
        place: Path_ = (*path, "with", position)
        found = _resolve_plugin(entry, "compressor", place, source, plugins, problems)
        if found is not None:
            owner = plugins.owner("compressor", found[0])
            parts.append(Step(found[0], "train", *found, owner.distribution, owner.version))
    version = importlib.metadata.version("leptonsdk")
    return Step(f"{index + 1:02d}-{TRAIN}", "train", TRAIN, config, "leptonsdk", version, tuple(parts))


ModelT = TypeVar("ModelT", bound=BaseModel)


def _validate(
    schema: type[ModelT], data: Any, path: Path_, source: RecipeSource, problems: list[Problem]
) -> ModelT | None:
    """The data as a schema's object, or None with its problems noted."""
    if not isinstance(data, dict):
        problems.append(source.problem(path, "is empty or no mapping", "a recipe is `key: value` lines"))
        return None
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        for found in error.errors():
            place = (*path, *(part for part in found["loc"]))
            message, hint = found["msg"].removeprefix("Value error, "), None
            if found["type"] == "extra_forbidden":
                message = f"unknown key '{place[-1]}'"
                hint = did_you_mean(str(place[-1]), checks.keys_at(schema, found["loc"][:-1]))
            elif found["type"] == "missing":
                message = f"'{place[-1]}' is missing"
            elif found["type"] == "literal_error":
                valid = found["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
                message, hint = f"{found['input']!r} is not valid", did_you_mean(str(found["input"]), valid)
            elif "input" in found and not isinstance(found["input"], dict):
                message = f"{message} (got {found['input']!r})"
            problems.append(source.problem(place, message, hint))
        return None
