"""What a plan checks besides the schema: that things exist, fit each other, and stand in an order that makes sense.

Each check reads the recipe's plain data, so that one wrong section does not hide what is wrong in another, and notes
problems instead of raising.
"""

from __future__ import annotations

import csv
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from leptonsdk.data.spec import DataSpec, file_format
from leptonsdk.errors import LeptonError, Problem, did_you_mean
from leptonsdk.hooks import LIBRARY, Plugins, TrainingCompressor
from leptonsdk.hooks.evaluators import unknown_options
from leptonsdk.recipe.source import Path_, RecipeSource
from leptonsdk.references import Reference, find_local, locate_model, read_config, task_of_architecture

if TYPE_CHECKING:
    from leptonsdk.hooks import Backend
    from leptonsdk.quantization.scheme import Scheme
    from leptonsdk.quantization.scheme_codebooks import CodebookScheme
    from leptonsdk.recipe.plan import Step

_COSTS = frozenset({"latency", "size", "memory"})


def keys_at(schema: type[BaseModel], path: Sequence[Any]) -> list[str]:
    """The keys that are valid at a place inside a schema."""
    current: Any = schema
    for part in path:
        if isinstance(part, int):
            continue
        if not (isinstance(current, type) and issubclass(current, BaseModel) and part in current.model_fields):
            return []
        current = _model_in(current.model_fields[part].annotation)
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []


def _model_in(annotation: Any) -> Any:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, list):
        models = [_model_in(argument) for argument in typing.get_args(annotation)]
        return next((m for m in models if isinstance(m, type) and issubclass(m, BaseModel)), None)
    return annotation


def check_model(
    section: Any, source: RecipeSource, plugins: Plugins, problems: list[Problem]
) -> tuple[Reference | None, str | None]:
    """Where the model is, and its task as far as can be told without loading it."""
    if not isinstance(section, dict) or not isinstance(section.get("id"), str):
        return None, None
    task = section.get("task")
    if isinstance(task, str) and task not in plugins.names("evaluator"):
        hint = did_you_mean(task, plugins.names("evaluator"))
        problems.append(source.problem(("model", "task"), f"no task named '{task}'", hint))
        task = None
    try:
        reference = locate_model(section["id"], source.base)
        if reference.folder is not None:
            config = read_config(reference.folder)
            if not any(reference.folder.glob("*.safetensors")):
                problems.append(source.problem(("model", "id"), f"'{reference.name}' has no safetensors weights"))
            if section.get("task") is None:
                found = filter(None, map(task_of_architecture, config.get("architectures") or ()))
                task = next(found, None)
    except LeptonError as error:
        problems.append(source.problem(("model", "id"), error.message, error.hint))
        return None, task if isinstance(task, str) else None
    return reference, task if isinstance(task, str) else None


def check_data(section: Any, task: str | None, source: RecipeSource, plugins: Plugins, problems: list[Problem]) -> None:
    """That local data exists, and that roles and columns are known where that can be seen at once."""
    for name, entry in section.items() if isinstance(section, dict) else ():
        try:
            spec = DataSpec.model_validate(entry)
        except ValidationError:
            continue  # the schema has said so
        path = ("data", name)
        roles = plugins.get("evaluator", task).columns if task in plugins.names("evaluator") else None
        if roles is not None:
            for role in spec.columns:
                if role not in roles:
                    problems.append(
                        source.problem(
                            (*path, "columns", role), f"{task} has no role '{role}'", did_you_mean(role, roles)
                        )
                    )
        if spec.path in plugins.names("dataset"):
            continue
        local = find_local(spec.path, source.base)
        if local is None:
            if spec.path.startswith((".", "/", "~")) or Path(spec.path).suffix or spec.path.count("/") > 1:
                hint = did_you_mean(spec.path, plugins.names("dataset"))
                problems.append(source.problem((*path, "path"), f"there is no '{spec.path}'", hint))
            continue
        if file_format(local) is None:
            problems.append(source.problem((*path, "path"), f"the kind of '{spec.path}' is not known"))
        for role, column in spec.columns.items():
            header = _header(local)
            if header is not None and column not in header:
                problems.append(
                    source.problem((*path, "columns", role), f"no column '{column}'", did_you_mean(column, header))
                )


def _header(path: Path) -> list[str] | None:
    if path.suffix.lower() not in {".csv", ".tsv"} or not path.is_file():
        return None
    with path.open(encoding="utf-8", newline="") as file:
        return next(csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ","), [])


def check_evaluation(
    data: Mapping[str, Any], task: str | None, source: RecipeSource, plugins: Plugins, problems: list[Problem]
) -> None:
    """That the task offers every metric that the gate and the evaluation name, and has every option."""
    if task not in plugins.names("evaluator"):
        return
    evaluator = plugins.get("evaluator", task)
    offered = [metric.name for metric in evaluator.metrics]
    gate, evaluation = data.get("gate"), data.get("evaluation")
    asked: Iterable[str] = gate.keys() - _COSTS if isinstance(gate, dict) else ()
    kept = evaluation.get("metrics") if isinstance(evaluation, dict) else None
    for name in sorted(asked):
        if name not in offered and not name.startswith(LIBRARY):
            hint = did_you_mean(name, [*offered, *_COSTS])
            problems.append(source.problem(("gate", name), f"{task} has no metric '{name}'", hint))
        elif isinstance(kept, list) and name not in kept:
            problems.append(source.problem(("gate", name), f"evaluation.metrics leaves '{name}' out", "add it there"))
    for index, name in enumerate(kept if isinstance(kept, list) else ()):
        if isinstance(name, str) and name not in offered and not name.startswith(LIBRARY):
            hint = did_you_mean(name, offered)
            problems.append(source.problem(("evaluation", "metrics", index), f"{task} has no metric '{name}'", hint))
    options = evaluation.get("options") if isinstance(evaluation, dict) else None
    for name in unknown_options(evaluator, options) if isinstance(options, dict) else ():
        hint = did_you_mean(name, evaluator.options or ())
        problems.append(source.problem(("evaluation", "options", name), f"{task} has no option '{name}'", hint))


def check_order(
    steps: Sequence[Step | None],
    exports: Sequence[Step | None],
    data: Mapping[str, Any],
    source: RecipeSource,
    plugins: Plugins,
    problems: list[Problem],
) -> None:
    """That each step may follow those before it, and has the data it needs."""
    section = data.get("data")
    calibrated = isinstance(section, dict) and section.get("calibration") is not None
    trained = isinstance(section, dict) and section.get("train") is not None
    gate = data.get("gate")
    done: dict[str, str] = {}
    for index, step in enumerate(steps):
        if step is None:
            continue
        path: Path_ = ("steps", index, step.plugin)
        if step.kind == "train":
            if not trained:
                problems.append(source.problem(path, "it needs training data", "Add `data.train`."))
            effects = {e for part in step.parts for e in plugins.get("compressor", part.plugin)(part.config).effects()}
            if (before := done.get("quantizes")) is not None and "quantizes" not in effects:
                problems.append(
                    source.problem(
                        path,
                        f"it may not follow '{before}': quantized weights cannot be trained as floats",
                        "Add quantization-aware training (`qat`) to `with`, or train first.",
                    )
                )
        for place, part in enumerate(step.parts or (() if step.kind == "train" else (step,))):
            where = (*path, "with", place, part.plugin) if step.kind == "train" else path
            _check_compressor(part, where, step.kind == "train", calibrated, done, source, plugins, problems)
    for index, export in enumerate(exports):
        if export is None:
            continue
        path = ("export", index, export.plugin)
        backend = plugins.get("backend", export.plugin)(export.config)
        carried = done.get("calibrates") if backend.takes_input_scales else None
        if backend.calibration() == "required" and not calibrated and carried is None:
            problems.append(source.problem(path, "it needs calibration data", "Add `data.calibration`."))
        asked = [cost for cost in ("latency", "memory") if isinstance(gate, dict) and gate.get(cost)]
        if asked and (reason := backend.untimed()) is not None:
            message = f"its {' and '.join(asked)} cannot be measured on this system: {reason}"
            problems.append(source.problem(path, message, f"Leave {' and '.join(asked)} out of the gate."))
        schemes = _schemes(steps, plugins)
        if carried in schemes and (reason := backend.cannot_multiply(schemes[carried])) is not None:
            message = f"it cannot multiply the weights that '{carried}' quantizes ({schemes[carried].name}): {reason}"
            hint = "Ask for `precision: auto`, or for one that computes with float activations."
            problems.append(source.problem(path, message, hint))
        elif "quantizes" in done:
            _check_integers(backend, path, done["quantizes"], carried, schemes, source, problems)


def _check_integers(
    backend: Backend[Any],
    path: Path_,
    quantizer: str,
    carried: str | None,
    schemes: Mapping[str, Scheme | CodebookScheme],
    source: RecipeSource,
    problems: list[Problem],
) -> None:
    """That a backend can hold the integers which the steps leave, or that it is known that it does not keep them.

    ``carried``: what trained them together with scales of inputs, if this backend takes such.
    """
    if not (backend.keeps_integers() and schemes):
        if quantizer == carried:
            return
        message = f"the weights that '{quantizer}' quantizes are exported as the numbers they stand for"
        problems.append(source.problem(path, message, "Their size is the export's own precision.", "warning"))
        return
    for name, scheme in schemes.items():
        if (reason := backend.cannot_hold(scheme)) is not None:
            message = f"it cannot hold the weights that '{name}' quantizes ({scheme.name}): {reason}"
            hint = "Ask for another precision, and the numbers that they stand for are exported."
            problems.append(source.problem(path, message, hint))


def _schemes(steps: Sequence[Step | None], plugins: Plugins) -> dict[str, Scheme | CodebookScheme]:
    """How each compressor of a recipe leaves the weights, of those that say so."""
    schemes = {}
    for step in steps:
        for part in () if step is None else step.parts or (() if step.kind == "train" else (step,)):
            if (scheme := plugins.get("compressor", part.plugin)(part.config).scheme()) is not None:
                schemes[part.plugin] = scheme
    return schemes


def _check_compressor(
    step: Step,
    path: Path_,
    training: bool,
    calibrated: bool,
    done: dict[str, str],
    source: RecipeSource,
    plugins: Plugins,
    problems: list[Problem],
) -> None:
    """That one compressor stands where its kind belongs, and may follow what was done; its effects are noted."""
    cls = plugins.get("compressor", step.plugin)
    if training != issubclass(cls, TrainingCompressor):
        message = "it does not act inside a training run" if training else "it acts inside a training run"
        hint = "Make it a step of its own." if training else f"Write `- train: {{with: [{{{step.plugin}: …}}]}}`."
        problems.append(source.problem(path, message, hint))
        return
    if cls.capabilities.calibration == "required" and not calibrated:
        problems.append(source.problem(path, "it needs calibration data", "Add `data.calibration`."))
    for effect in sorted(cls.capabilities.may_not_follow & done.keys()):
        problems.append(source.problem(path, f"it may not follow '{done[effect]}', which {effect} the weights"))
    if "quantizes" in cls.capabilities.effects and (before := done.get("quantizes")) is not None:
        earlier = plugins.get("compressor", before).capabilities.formats
        if not set(earlier) & set(cls.capabilities.formats) and "quantizes" not in cls.capabilities.may_not_follow:
            problems.append(
                source.problem(
                    path,
                    f"it may not follow '{before}': {' or '.join(cls.capabilities.formats)} cannot hold what stands in "
                    f"{' or '.join(earlier)}",
                )
            )
    done.update(dict.fromkeys(cls(step.config).effects(), step.plugin))
