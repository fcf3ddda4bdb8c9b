"""The plain calls: load, quantize, save, compress, export, evaluate, gate.

Each takes what a caller has (a name, a path, an object) and does one thing; a recipe (`compress`) does all of it with
everything written down.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from leptonsdk.artifact import Artifact, is_artifact
from leptonsdk.errors import CheckpointError, MissingPluginError, RecipeError, UsageError
from leptonsdk.hooks import EvaluationSettings, Plugins, StepContext, load_plugins
from leptonsdk.hooks.classes import Progress, no_progress
from leptonsdk.pipeline.display import Display
from leptonsdk.pipeline.fingerprints import available_threads
from leptonsdk.recipe import Plan, Recipe, make_plan

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from leptonsdk.checkpoint import Checkpoint
    from leptonsdk.evaluation.scores import Scores
    from leptonsdk.gating import ConditionResult, Verdict
    from leptonsdk.pipeline.run import Run

_PARITY_ROWS = 64


@cache
def installed_plugins() -> Plugins:
    """The plugins of this environment, found once."""
    return load_plugins()


def load_model(
    reference: str | Path,
    *,
    task: str | None = None,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    trust_remote_code: bool = False,
) -> Checkpoint:
    """Load a model with its processor.

    Args:
        reference: A Hub id, a local folder, or ``package://name/sub`` for a folder inside an installed package.
        task: The Hub's task name, such as ``text-classification``; inferred from the architecture when left out.
        revision: Of a Hub model.
        dtype: To compute in; float32 by default, whatever is on disk.
        device: A torch device.
        trust_remote_code: Run code that the model's repository holds.

    Raises:
        CheckpointError: It is missing, has no safetensors weights, or does not do the task.
    """
    import torch

    from leptonsdk.checkpoint import load_checkpoint

    return load_checkpoint(
        reference,
        task=task,
        revision=revision,
        dtype=dtype or torch.float32,
        device=device,
        trust_remote_code=trust_remote_code,
    )


def save_model(
    model: Checkpoint, folder: str | Path, *, dtype: torch.dtype | None = None, format: str = "compressed-tensors"
) -> Path:
    """Write a Hugging Face folder that plain ``from_pretrained`` loads; quantized weights as compressed-tensors.

    Args:
        model: What `load_model` or `quantize_model` gave.
        folder: Made if need be.
        dtype: Of the weights that are not quantized (``torch.float16`` halves them); default: as they are.
        format: Of those that are: ``compressed-tensors``, or ``gptq`` (transformers needs gptqmodel to load it).
    """
    return model.save(folder, dtype=dtype, format=format)


def quantize_model(
    model: Checkpoint | PreTrainedModel | str | Path,
    bit_width: int | None = None,
    *,
    scheme: str | Mapping[str, Any] | None = None,
    group_size: int | None = None,
    symmetric: bool | None = None,
    targets: Sequence[str] = ("Linear",),
    ignore: Sequence[str] = ("lm_head",),
    calibration: Any = None,
    columns: Mapping[str, str] | None = None,
    max_length: int | None = None,
    method: str | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
    plugins: Plugins | None = None,
    **config: Any,
) -> Checkpoint:
    """Quantize the weights of a model's linear layers.

    Without data each weight is rounded to the nearest of its integers, scales chosen for the least squared error (``rtn``).
    With calibration data the layers' outputs are what changes least (``gptq``, of the plugin leptonsdk-gptq).

    Args:
        model: A checkpoint, a transformers model, or a reference as `load_model` takes it. It is left as it is.
        bit_width: Bits per weight, 8 unless a scheme is given.
        scheme: A preset (``W8A16``, ``W4A16`` …) or its fields, instead of a bit width.
        group_size: Weights in a row that share a scale; -1: the whole row. Default: the row for 8 bits, 128 for fewer.
        symmetric: Without zero points (the default).
        targets: Layers to quantize: class names, module names, or ``re:`` patterns.
        ignore: Layers to leave.
        calibration: Data as `evaluate` takes it, a list of texts, or a list of the model's own inputs (mappings of tensors).
        columns: Role to column of that data.
        max_length: Longest calibration input in tokens; language models read windows of that many (default 1,024).
        method: Another compressor by its name.
        seed: Of what it draws.
        progress: Called as ``progress(done, total, what)``.
        plugins: Default: the installed ones.
        config: More of the compressor's config, such as ``preset="best"`` of gptq.

    Returns:
        A checkpoint whose model computes with the quantized numbers and which `save_model` writes packed.

    Raises:
        UsageError: The scheme does not exist or does not fit the layers; names the layers and the sizes that fit.
        MissingPluginError: Calibration data is given, and no plugin is there that reads it.
    """
    from leptonsdk.evaluation.inputs import batches_of

    plugins = plugins or installed_plugins()
    method = method or ("rtn" if calibration is None else "gptq")
    if method == "gptq" and method not in plugins.names("compressor"):
        raise MissingPluginError(
            "calibration data is read by GPTQ, which is not installed", hint="pip install leptonsdk-gptq"
        )
    given = {"scheme": scheme, "bit_width": bit_width, "group_size": group_size, "symmetric": symmetric}
    options = {name: value for name, value in given.items() if value is not None}
    cls = plugins.get("compressor", method)
    if scheme is None and "bit_width" in cls.config_class.model_fields:
        options.setdefault("bit_width", 8)
    try:
        settings = cls.config_class(targets=tuple(targets), ignore=tuple(ignore), **options, **config)
    except ValidationError as error:
        raise UsageError(_wrong(error), where="quantize_model") from error
    checkpoint = as_checkpoint(model)
    with tempfile.TemporaryDirectory() as scratch:
        context = StepContext(
            seed=seed,
            folder=Path(scratch),
            batches=batches_of(checkpoint, calibration, columns, plugins, max_length=max_length),
            progress=progress,
            threads=available_threads(),
        )
        compressed: Checkpoint = cls(settings).compress(checkpoint, context)
    return compressed


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


def export(
    model: Checkpoint | Artifact | str | Path,
    backend: str,
    folder: str | Path,
    *,
    precision: str | None = None,
    task: str | None = None,
    calibration: Any = None,
    samples: Any = None,
    columns: Mapping[str, str] | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
    plugins: Plugins | None = None,
    **config: Any,
) -> Artifact:
    """Export a model to a runtime.

    Args:
        model: A checkpoint, or a reference as `load_model` takes it.
        backend: The backend's name (``onnxruntime``).
        folder: The artifact's folder: new or empty.
        precision: One of the backend's precisions.
        task: When ``model`` is a reference.
        calibration: Data for calibrated precisions: a name or path, a dataset, rows, or texts.
        samples: Data whose first rows check the artifact's parity with torch; default: made-up inputs.
        columns: Role to column of that data.
        seed: Of what the export draws.
        progress: Called as ``progress(done, total, what)``.
        plugins: Default: the installed ones.
        config: More of the backend's config.

    Raises:
        UsageError: A wrong precision or option, a folder that is not empty, or calibration data that is missing.
        ExportError: The artifact could not be made, or disagrees with the model.
    """
    from leptonsdk.evaluation.inputs import batches_of

    plugins = plugins or installed_plugins()
    cls = plugins.get("backend", backend)
    options = {**config, **({} if precision is None else {"precision": precision})}
    try:
        exporter = cls(cls.config_class(**options))
    except ValidationError as error:
        raise UsageError(_wrong(error), where=f"backend {backend}") from error
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError("it exists and is not empty", where=str(folder), hint="name a new folder")
    checkpoint = as_checkpoint(model, task)
    if exporter.calibration() == "required" and calibration is None and not checkpoint.input_scales:
        raise UsageError(f"precision {precision} needs calibration data", where=f"backend {backend}", hint="give some")
    checkpoint = checkpoint.dequantized()
    with tempfile.TemporaryDirectory() as scratch:
        context = StepContext(
            seed=seed,
            folder=Path(scratch),
            batches=batches_of(checkpoint, calibration, columns, plugins),
            samples=batches_of(
                checkpoint, samples if samples is not None else calibration, columns, plugins, _PARITY_ROWS
            ),
            progress=progress,
            threads=available_threads(),
        )
        folder.mkdir(parents=True, exist_ok=True)
        artifact: Artifact = exporter.export(checkpoint, folder, context)
    artifact.write_manifest()
    return artifact


def evaluate(
    model: Checkpoint | Artifact | str | Path,
    data: Any,
    *,
    task: str | None = None,
    metrics: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    batch_size: int = 32,
    max_length: int | None = None,
    options: Mapping[str, Any] | None = None,
    baseline: Checkpoint | str | Path | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
    plugins: Plugins | None = None,
) -> Scores:
    """Score a model, or an exported artifact in its runtime, example by example.

    Args:
        model: A checkpoint, an artifact, or the folder or reference of either.
        data: A name or path, a `DataSpec`, a dataset, or rows.
        task: When ``model`` is a reference.
        metrics: To keep; ``evaluate:NAME_OR_PATH`` adds one of the evaluate library. Default: all of the task.
        columns: Role to column.
        limit: Use this many rows, drawn with the seed.
        batch_size: Examples per forward.
        max_length: Longest input in tokens.
        options: Of the task, such as ``{"pooling": "cls"}``.
        baseline: For metrics that are a distance to it (``kl``).
        seed: Of the drawing.
        progress: Called as ``progress(done, total, what)``.
        plugins: Default: the installed ones.
    """
    from leptonsdk.data.loading import to_data
    from leptonsdk.evaluation.harness import evaluate as score

    plugins = plugins or installed_plugins()
    subject = as_subject(model, task)
    evaluator = plugins.get("evaluator", subject.task)
    return score(
        subject,
        to_data(data, evaluator, plugins, columns=columns, limit=limit, seed=seed),
        plugins,
        metrics=metrics,
        settings=EvaluationSettings(
            batch_size=batch_size, max_length=max_length, options=dict(options or {}), progress=progress
        ),
        baseline=None if baseline is None else as_checkpoint(baseline, task),
        threads=available_threads(),
    )


@dataclass(frozen=True)
class GateResult:
    """A verdict (``pass``, ``fail``, ``inconclusive``) and the conditions that it rests on."""

    verdict: Verdict
    conditions: tuple[ConditionResult, ...]

    @property
    def exit_code(self) -> int:
        """0 pass, 1 fail, 3 inconclusive."""
        from leptonsdk.gating import EXIT_CODES

        return EXIT_CODES[self.verdict]

    def as_dict(self) -> dict[str, Any]:
        return {"verdict": self.verdict, "conditions": [condition.as_dict() for condition in self.conditions]}


def gate(baseline: Scores, candidate: Scores, conditions: Mapping[str, Any], *, seed: int = 0) -> GateResult:
    """Judge whether a candidate lost too much, paired example by example.

    Args:
        baseline: Scores of the source model.
        candidate: Scores of the compressed one, on the same examples.
        conditions: Metric to condition: ``{"accuracy": {"max_drop": 0.01, "confidence": 0.95}}``.
        seed: Of the bootstrap.

    Raises:
        UsageError: A condition that is not valid.
        EvaluationError: The examples differ, or a metric is missing.
    """
    from leptonsdk.gating import overall
    from leptonsdk.pipeline.judging import judge_metrics
    from leptonsdk.recipe.schema import MetricCondition

    try:
        parsed = {name: MetricCondition.model_validate(condition) for name, condition in conditions.items()}
    except ValidationError as error:
        raise UsageError(_wrong(error), where="gate") from error
    results = judge_metrics(baseline, candidate, parsed, seed=seed, subject=candidate.model)
    return GateResult(overall(result.verdict for result in results), tuple(results))


def _wrong(error: ValidationError) -> str:
    """Everything that a config's validation found, in one line."""
    found = []
    for problem in error.errors():
        place = ".".join(map(str, problem["loc"]))
        message = problem["msg"].removeprefix("Value error, ")
        found.append(f"{place}: {message}" if place else message)
    return "; ".join(found)


def as_checkpoint(model: Any, task: str | None = None) -> Checkpoint:
    """A checkpoint from a checkpoint, a transformers model, or a reference."""
    from transformers import PreTrainedModel

    from leptonsdk.checkpoint import Checkpoint

    if isinstance(model, Checkpoint):
        return model
    if isinstance(model, PreTrainedModel):
        return Checkpoint.of(model, task=task)
    if isinstance(model, Artifact) or (isinstance(model, (str, Path)) and is_artifact(model)):
        raise CheckpointError("an exported artifact cannot be compressed again", hint="start from the checkpoint")
    return load_model(model, task=task)


def as_subject(model: Any, task: str | None = None) -> Checkpoint | Artifact:
    """A checkpoint or an artifact, whichever it is or a folder holds."""
    if isinstance(model, Artifact):
        return model
    if isinstance(model, (str, Path)) and is_artifact(model):
        return Artifact.open(model)
    return as_checkpoint(model, task)


__all__ = [
    "GateResult",
    "RecipeError",
    "compress",
    "evaluate",
    "export",
    "gate",
    "installed_plugins",
    "load_model",
    "plan",
    "quantize_model",
    "save_model",
]
