"""Make a model smaller while it learns: pruned, or taught by a teacher, in one training run."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from leptonsdk.api.common import first_party, installed_plugins, wrong
from leptonsdk.api.models import as_checkpoint
from leptonsdk.errors import UsageError
from leptonsdk.hooks import EvaluationSettings, Evaluator, Plugins, StepContext
from leptonsdk.hooks.classes import Progress, TrainingCompressor, no_progress
from leptonsdk.pipeline.fingerprints import available_threads
from leptonsdk.recipe.training import TrainConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from leptonsdk.checkpoint import Checkpoint


def prune_model(
    model: Checkpoint | PreTrainedModel | str | Path,
    train_data: Any,
    *,
    sparsity: float | Mapping[str, float],
    structure: str | Sequence[str] = ("heads", "ffn"),
    method: str = "movement",
    distill: bool | Mapping[str, Any] = True,
    args: Mapping[str, Any] | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    max_length: int | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
    plugins: Plugins | None = None,
    **config: Any,
) -> Checkpoint:
    """Prune a model while it is trained, and remove what is pruned (of the plugin leptonsdk-movement-pruning).

    Args:
        model: A checkpoint, a transformers model, or a reference as `load_model` takes it. It is left as it is.
        train_data: Data of its task, as `evaluate` takes it.
        sparsity: Share that goes; ``{"heads": 0.5, "ffn": 0.6}`` for different ones.
        structure: ``heads``, ``ffn`` and ``layers`` are removed; ``unstructured``, ``block``, ``rows`` and ``columns`` leave zeros.
        method: ``movement``, ``soft_movement``, ``magnitude`` or ``l1``.
        distill: The model as it was teaches it (of the plugin leptonsdk-distillation); a mapping is that plugin's config.
        args: Fields of `transformers.TrainingArguments`, such as ``{"num_train_epochs": 3, "learning_rate": 1e-4}``.
        columns: Role to column.
        limit: Train on this many rows, drawn with the seed.
        max_length: Longest input in tokens.
        options: Of the task, as `evaluate` takes them.
        seed: Of the drawing and the training.
        progress: Called as ``progress(done, total, what)``.
        plugins: Default: the installed ones.
        config: More of the pruning's config, such as ``round_to=16``.

    Returns:
        A checkpoint in floats; where its config cannot say the shapes that are left, `load_model` reads what `save_model` writes.

    Raises:
        UsageError: The config or an argument is wrong, or the model shows nothing that could be removed.
        MissingPluginError: A plugin that this needs is not installed.
    """
    plugins = plugins or installed_plugins()
    pruning = first_party(plugins, "movement_pruning", "pruning while training")
    checkpoint = as_checkpoint(model)
    fields = {"final_sparsity": sparsity, "structure": structure, "method": method, **config}
    compression = [_made("prune_model", pruning, fields)]
    if distill is not False:
        teaching = {**_lessons(checkpoint.task, plugins), **(distill if isinstance(distill, Mapping) else {})}
        compression.append(_made("prune_model", first_party(plugins, "distillation", "distillation"), teaching))
    settings = EvaluationSettings(max_length=max_length, options=dict(options or {}))
    more = {"columns": columns, "limit": limit, "seed": seed}
    return _train("prune_model", checkpoint, train_data, compression, plugins, args, settings, progress, **more)


def distill_model(
    model: Checkpoint | PreTrainedModel | str | Path,
    teacher: Checkpoint | PreTrainedModel | str | Path | None = None,
    *,
    train_data: Any,
    student_layers: int | Sequence[int] | None = None,
    student_heads: int | None = None,
    student_intermediate_size: int | None = None,
    args: Mapping[str, Any] | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    max_length: int | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
    plugins: Plugins | None = None,
    **config: Any,
) -> Checkpoint:
    """Train a model that learns from a teacher (of the plugin leptonsdk-distillation).

    Args:
        model: The student: a checkpoint, a transformers model, or a reference as `load_model` takes it. It is left as it is.
        teacher: The same, for the same task; where a student is cut from the model, the whole model by default.
        train_data: Data of its task, as `evaluate` takes it.
        student_layers: The student is the model with so many of its blocks, evenly spread, or those with these numbers.
        student_heads: It keeps so many heads of each attention, those with the largest weights.
        student_intermediate_size: It keeps so many neurons of each feed-forward network, those with the largest weights.
        args: Fields of `transformers.TrainingArguments`.
        columns: Role to column.
        limit: Train on this many rows, drawn with the seed.
        max_length: Longest input in tokens.
        options: Of the task, as `evaluate` takes them.
        seed: Of the drawing and the training.
        progress: Called as ``progress(done, total, what)``.
        plugins: Default: the installed ones.
        config: More of the distillation's config, such as ``temperature=4.0`` or ``hidden=1.0``.

    Raises:
        UsageError: There is nothing to learn, the config or an argument is wrong, or the teacher speaks of other things.
        MissingPluginError: The plugin is not installed.
    """
    plugins = plugins or installed_plugins()
    distillation = first_party(plugins, "distillation", "distillation")
    cut = {
        "student_layers": student_layers,
        "student_heads": student_heads,
        "student_intermediate_size": student_intermediate_size,
    }
    if teacher is None and all(value is None for value in cut.values()):
        hint = f"give a teacher, or {', '.join(cut)}"
        raise UsageError("there is nothing to learn", where="distill_model", hint=hint)
    checkpoint = as_checkpoint(model)
    fields = {**_lessons(checkpoint.task, plugins), **cut, **config}
    given = {} if teacher is None else {"teacher": as_checkpoint(teacher, checkpoint.task)}
    compression = [_made("distill_model", distillation, fields, **given)]
    settings = EvaluationSettings(max_length=max_length, options=dict(options or {}))
    more = {"columns": columns, "limit": limit, "seed": seed}
    return _train("distill_model", checkpoint, train_data, compression, plugins, args, settings, progress, **more)


def _made(where: str, cls: Any, fields: Mapping[str, Any], **given: Any) -> TrainingCompressor[Any]:
    try:
        compressor: TrainingCompressor[Any] = cls(cls.config_class(**fields), **given)
    except ValidationError as error:
        raise UsageError(wrong(error), where=where) from error
    return compressor


def _lessons(task: str, plugins: Plugins) -> dict[str, Any]:
    """What a teacher teaches besides logits: where a task has no labels (a sentence encoder's), its embeddings."""
    unlabelled = plugins.get("evaluator", task).training_batch is Evaluator.training_batch
    return {"embeddings": 1.0} if unlabelled else {}


def _train(
    where: str,
    checkpoint: Checkpoint,
    data: Any,
    compression: Sequence[TrainingCompressor[Any]],
    plugins: Plugins,
    args: Mapping[str, Any] | None,
    settings: EvaluationSettings,
    progress: Progress,
    **more: Any,
) -> Checkpoint:
    from leptonsdk.data.loading import to_data
    from leptonsdk.training.step import train

    try:
        checked = TrainConfig(args=dict(args or {})).args
    except ValidationError as error:
        raise UsageError(wrong(error), where=where) from error
    rows = to_data(data, plugins.get("evaluator", checkpoint.task), plugins, **more)
    with tempfile.TemporaryDirectory() as scratch:
        context = StepContext(
            seed=more["seed"],
            folder=Path(scratch),
            progress=progress,
            device=str(checkpoint.model.device),
            threads=available_threads(),
        )
        # Nothing goes on from the checkpoints of a folder that is gone with the call.
        arguments = {"save_strategy": "no", **checked}
        return train(checkpoint, rows, compression, plugins, context, args=arguments, settings=settings)
