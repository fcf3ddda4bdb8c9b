"""A training run as a step of a recipe: data from the task, compressors inside, interrupted work goes on."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from leptonsdk.checkpoint import Checkpoint
from leptonsdk.data.loading import Data
from leptonsdk.errors import UsageError, first_line
from leptonsdk.evaluation.harness import subject_settings
from leptonsdk.evaluation.subjects import open_subject
from leptonsdk.hooks import EvaluationSettings, Plugins, StepContext, TrainingCompressor, errors_named
from leptonsdk.training.trainer import CompressionTrainer

_SAVES = 10  # checkpoints of a run, so that at most so much of it is lost


def train(
    checkpoint: Checkpoint,
    data: Data,
    compression: Sequence[TrainingCompressor[Any]],
    plugins: Plugins,
    context: StepContext,
    *,
    args: Mapping[str, Any],
    settings: EvaluationSettings | None = None,
    keep_zeros: bool = False,
) -> Checkpoint:
    """The checkpoint after a training run; the given one stays as it was.

    Args:
        checkpoint: In floats, or quantized, where a compressor of quantization-aware training goes on from there.
        data: Rows of its task to train on; without labels the compressors must bring a loss.
        compression: Compressors that act in the run.
        plugins: For the task's evaluator, which makes inputs and labels of rows.
        context: Its folder keeps the Trainer's checkpoints until the step is done.
        args: Fields of `transformers.TrainingArguments`.
        settings: Length and options of the inputs.
        keep_zeros: Weights that are zero stay zero (`CompressionTrainer`).

    Raises:
        UsageError: The checkpoint is quantized and no compressor goes on from integers, or the arguments do not fit each other.
    """
    subject = open_subject(checkpoint, plugins)
    settings = subject_settings(subject, settings)
    evaluator = plugins.get("evaluator", checkpoint.task)()
    with errors_named(type(evaluator)):
        rows = evaluator.examples(data.rows, checkpoint.processor, settings)
    columns = rows.column_names

    def collate(examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch = {name: [example[name] for example in examples] for name in columns}
        with errors_named(type(evaluator)):
            return dict(evaluator.training_batch(checkpoint.processor, batch, settings))

    arguments = _arguments(args, context)
    if arguments.train_sampling_strategy == "group_by_length":
        with errors_named(type(evaluator)):
            lengths = evaluator.lengths(checkpoint.processor, rows, settings)
        rows = rows.add_column(arguments.length_column_name, lengths)
    trainer = CompressionTrainer(
        copy.deepcopy(checkpoint.model),
        arguments,
        train_dataset=rows,
        data_collator=collate,
        compression=compression,
        quantized=checkpoint.quantized,
        keep_zeros=keep_zeros,
        callbacks=[_Progress(context)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=_last_whole(Path(arguments.output_dir)))
    return trainer.checkpoint(checkpoint)


def _last_whole(folder: Path) -> str | None:
    """The latest checkpoint that was written to its end, which is the Trainer's state: a run may have been cut in the middle."""
    saved = sorted(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for path in reversed(saved):
        try:
            json.loads((path / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return str(path)
    return None


def _arguments(args: Mapping[str, Any], context: StepContext) -> TrainingArguments:
    defaults = {"save_strategy": "steps", "save_steps": 1 / _SAVES, "save_total_limit": 1, "logging_steps": 1 / 50}
    own = {
        "output_dir": str(context.folder / "trainer"),
        "seed": context.seed,
        "report_to": [],
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "use_cpu": context.device == "cpu",
    }
    try:
        return TrainingArguments(**{**defaults, **args, **own})
    except (TypeError, ValueError) as error:
        raise UsageError(first_line(error), where="train.args") from error


class _Progress(TrainerCallback):  # type: ignore[misc]
    """Tells the step's progress, with the last logged numbers; keeps the Trainer's own lines off the terminal."""

    def __init__(self, context: StepContext) -> None:
        self._context, self._numbers = context, ""

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        shown = {k: v for k, v in (logs or {}).items() if isinstance(v, float) and k not in ("epoch", "learning_rate")}
        if "loss" in shown:
            self._numbers = ", ".join(f"{name} {value:.3g}" for name, value in shown.items())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._context.progress(state.global_step, state.max_steps, f"training: {self._numbers}")
