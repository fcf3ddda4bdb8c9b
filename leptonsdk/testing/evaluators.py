"""Evaluators at work: made-up rows by the roles' names, and a tiny model of the task."""

from __future__ import annotations

import dataclasses
import io
import wave
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from leptonsdk.checkpoint import Checkpoint
from leptonsdk.data.loading import to_data
from leptonsdk.evaluation.harness import subject_settings
from leptonsdk.evaluation.subjects import Subject, open_subject
from leptonsdk.hooks import EvaluationSettings, Evaluator, Plugins
from leptonsdk.testing.bench import Config, kept, key_of
from leptonsdk.testing.check import CheckFailed
from leptonsdk.testing.models import tiny_checkpoint
from leptonsdk.testing.models_processors import WORDS

COUNT = len(WORDS)
_MODELS = {
    "text-generation": "llama",
    "text2text-generation": "t5",
    "summarization": "t5",
    "translation": "t5",
    "image-classification": "vit",
    "audio-classification": "whisper",
    "automatic-speech-recognition": "whisper",
}
_TAGS = ("O", "B-GOOD", "I-GOOD")


def _answer(text: str) -> dict[str, Any]:
    first = text.split()[0]
    return {"text": [first], "answer_start": [0]}


def _image(number: int) -> Any:
    from PIL import Image

    return Image.fromarray(np.random.default_rng(number).integers(0, 255, (20, 20, 3), dtype=np.uint8))


def _sound(number: int) -> dict[str, Any]:
    """A tone as a wav file's bytes; each of another length."""
    samples = np.sin(np.arange(4000 + 500 * number) * (0.05 + 0.01 * number)) * 20000
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(samples.astype("<i2").tobytes())
    return {"path": None, "bytes": buffer.getvalue()}


def _text(number: int) -> str:
    return WORDS[number % COUNT]


# What a role's values are, by its name; any other role is a text.
_VALUES: dict[str, Callable[[int], Any]] = {
    "label": lambda n: n % 2,
    "score": lambda n: n / COUNT,
    "image": _image,
    "audio": _sound,
    "tokens": lambda n: _text(n).split(),
    "tags": lambda n: [_TAGS[i % len(_TAGS)] for i, _ in enumerate(_text(n).split())],
    "answers": lambda n: _answer(_text(n)),
    "context": _text,
    "translation": lambda n: {"en": _text(n), "de": _text(n + 1)},
    "query": lambda n: _text(n + 1),
    "sentence2": lambda n: _text(n + 1),
    "target": lambda n: _text(n + 1),
}


def rows_of(evaluator: type[Evaluator], roles: Sequence[str]) -> dict[str, list[Any]]:
    """Values of some roles, of as many rows each."""
    own = evaluator.example_rows
    count = len(next(iter(own.values()))) if own else COUNT
    return {
        role: list(own[role]) if role in own else [_VALUES.get(role, _text)(n) for n in range(count)] for role in roles
    }


@dataclass(frozen=True)
class Scoring:
    """An evaluator with all that it reads.

    Attributes:
        evaluator: Its object.
        checkpoint: A tiny model of its task.
        subject: The same, ready to run.
        examples: What is scored.
        settings: Batches of four.
    """

    evaluator: Evaluator
    checkpoint: Checkpoint
    subject: Subject
    examples: Dataset
    settings: EvaluationSettings

    def columns(self, examples: Dataset | None = None, batch_size: int = 4) -> dict[str, NDArray[Any]]:
        """Its per-example columns."""
        settings = dataclasses.replace(self.settings, batch_size=batch_size)
        found = self.evaluator.evaluate(
            self.subject.runner, self.subject.processor, self.examples if examples is None else examples, settings
        )
        return {name: np.asarray(values) for name, values in found.items()}


def open_scoring(
    plugin: type[Evaluator], options: Config, checkpoint: Checkpoint, rows: Mapping[str, Sequence[Any]]
) -> Scoring:
    """An evaluator over some rows, with a model."""
    subject = open_subject(checkpoint, Plugins())
    settings = subject_settings(subject, EvaluationSettings(options=options, reference=subject.runner))
    count = len(next(iter(rows.values())))
    data = to_data([{role: values[n] for role, values in rows.items()} for n in range(count)], plugin, Plugins())
    evaluator = plugin()
    return Scoring(
        evaluator, checkpoint, subject, evaluator.examples(data.rows, checkpoint.processor, settings), settings
    )


def scorings(plugin: type[Evaluator], options: Config) -> list[Scoring]:
    """One for each of the alternatives that its ``required`` names; one with all roles where there is no choice."""

    def make() -> list[Scoring]:
        checkpoint = _model_for(plugin, options)
        return [open_scoring(plugin, options, checkpoint, rows_of(plugin, roles)) for roles in _alternatives(plugin)]

    return kept(make, "scorings", plugin, key_of(options))


def scoring(plugin: type[Evaluator], options: Config) -> Scoring:
    """The one for its first alternative."""
    return scorings(plugin, options)[0]


def _alternatives(plugin: type[Evaluator]) -> list[list[str]]:
    """The roles of each alternative; all roles together where there is no choice."""
    return [sorted(roles) for roles in plugin.required] if len(plugin.required) > 1 else [sorted(plugin.columns)]


def _model_for(plugin: type[Evaluator], options: Config) -> Checkpoint:
    """A tiny model that the evaluator can score: its task's, or the first that works.

    Raises:
        CheckFailed: None does.
    """
    roles = _alternatives(plugin)[0]
    by_role = "vit" if "image" in roles else "whisper" if "audio" in roles else "bert"
    fields: dict[str, Any] = {}
    if "tags" in roles:
        fields = {"id2label": dict(enumerate(_TAGS)), "label2id": {tag: n for n, tag in enumerate(_TAGS)}}
    reasons = []
    for name in dict.fromkeys((_MODELS.get(plugin.name, by_role), by_role, "bert", "llama", "t5")):
        for task in (plugin.name, None):
            try:
                checkpoint = tiny_checkpoint(name, task=task, **fields)
                open_scoring(plugin, options, checkpoint, rows_of(plugin, roles)).columns()
            except Exception as error:
                reasons.append(f"{name}: {type(error).__name__}: {error}")
                continue
            return checkpoint
    hint = "`example_rows` gives the kit values of its roles"
    raise CheckFailed(f"it scores none of the tiny models; {reasons[0]}", where=plugin.name, hint=hint)
