"""Speech recognition: word and character error rates of greedy transcripts."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from leptonsdk.errors import DataError, EvaluationError
from leptonsdk.evaluation.batching import batches
from leptonsdk.evaluation.generating import generate
from leptonsdk.evaluation.packages import optional
from leptonsdk.evaluation.recordings import features
from leptonsdk.hooks import EvaluationSettings, Evaluator, Metric, Runner

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray
    from torch import Tensor

_POSITIONS = 448  # Whisper's own; its authors decode half as many tokens at most per 30 seconds


class SpeechRecognition(Evaluator):
    """Errors (substitutions, deletions, insertions) per word and per character of the references, counted by jiwer.

    Both sides are normalised first: by transformers' English normaliser for Whisper's tokenizer ("Seven." is "7"), by the
    basic one (case, punctuation) for others; ``options["normalizer"]`` chooses: ``english``, ``basic``, or ``digits`` for
    numbers read out digit by digit, where English "six 6" is "66": each digit is a word of its own. Rates are those
    of Radford et al. 2022 (https://arxiv.org/abs/2212.04356), over all examples together; they can exceed 1.
    Transcripts are greedy, of ``options["max_new_tokens"]`` tokens at most (half of the decoder's positions by default).
    """

    name = "automatic-speech-recognition"
    columns: ClassVar[Mapping[str, Sequence[str]]] = {
        "audio": ("path", "file"),
        "text": ("transcription", "sentence"),
    }
    required = (frozenset({"audio", "text"}),)
    files = frozenset({"audio"})
    options: ClassVar[frozenset[str] | None] = frozenset({"max_new_tokens", "normalizer"})
    metrics = (
        Metric(
            "wer",
            ("word_errors", "words"),
            statistic="ratio",
            higher_is_better=False,
            description="Word error rate: errors per word of the references.",
        ),
        Metric(
            "cer",
            ("character_errors", "characters"),
            statistic="ratio",
            higher_is_better=False,
            description="Character error rate: errors per character of the references.",
        ),
    )

    def encode(
        self, processor: Any, rows: Mapping[str, Sequence[Any]], settings: EvaluationSettings
    ) -> dict[str, Tensor]:
        inputs, _ = _features(processor, rows["audio"])
        start = settings.options.get("decoder_start_token_id")
        if start is not None and "text" in rows:
            inputs["decoder_input_ids"] = _decoder_ids(processor.tokenizer, rows["text"], start, settings)
        return inputs

    def training_batch(
        self, processor: Any, rows: Mapping[str, Sequence[Any]], settings: EvaluationSettings
    ) -> dict[str, Tensor]:
        inputs, _ = _features(processor, rows["audio"])
        return {**inputs, "labels": _labels(processor.tokenizer, rows["text"], settings)}

    def evaluate(
        self, runner: Runner, processor: Any, dataset: Dataset, settings: EvaluationSettings
    ) -> Mapping[str, NDArray[Any]]:
        _jiwer()  # missing, it is to be said before an hour of transcribing
        heard: list[str] = []
        for _, rows in batches(dataset, settings, self.name):
            heard += transcribe(runner, processor, rows["audio"], settings)
        normalizer = normalizer_of(processor.tokenizer, settings.options.get("normalizer"))
        return count_errors([str(text) for text in dataset["text"]], heard, normalizer)


def transcribe(runner: Runner, processor: Any, audio: Sequence[Any], settings: EvaluationSettings) -> list[str]:
    """What the model hears in some recordings, as it writes it.

    Raises:
        EvaluationError: An encoder-decoder in a runner that cannot generate.
    """
    inputs, lengths = _features(processor, audio)
    if settings.options.get("decoder_start_token_id") is not None:
        limit = settings.options.get("max_target_positions", _POSITIONS) // 2
        limit = settings.options.get("max_new_tokens", limit)
        ids = generate(runner, SpeechRecognition.name, max_new_tokens=limit, **inputs)
        return list(processor.tokenizer.batch_decode(ids, skip_special_tokens=True))
    best = runner(**inputs).logits.argmax(dim=-1)
    # What stands in the frames of the padding was not said; frames are in proportion to samples.
    frames = [math.ceil(best.shape[1] * length / max(lengths)) for length in lengths]
    return [processor.tokenizer.decode(row[:count].tolist()) for row, count in zip(best, frames, strict=True)]


def normalizer_of(tokenizer: Any, which: str | None = None) -> Callable[[str], str]:
    """Transformers' ``english`` or ``basic`` normaliser; by default English for a tokenizer that has it (Whisper's)."""
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    if which not in (None, "english", "basic", "digits"):
        raise EvaluationError(f"there is no normalizer '{which}'", hint="english, basic or digits")
    if which == "digits":
        numbers = normalizer_of(tokenizer, "english")
        return lambda text: " ".join(re.sub(r"\d", r" \g<0> ", numbers(text)).split())
    if which == "english" or (which is None and hasattr(tokenizer, "english_spelling_normalizer")):
        # The tokenizer's own `normalize` breaks where its folder has no normalizer.json, the list of British spellings.
        english: Callable[[str], str] = EnglishTextNormalizer(
            getattr(tokenizer, "english_spelling_normalizer", None) or {}
        )
        return english
    basic: Callable[[str], str] = BasicTextNormalizer()
    return basic


def count_errors(
    references: Sequence[str], heard: Sequence[str], normalizer: Callable[[str], str]
) -> dict[str, NDArray[Any]]:
    """Per example: errors and reference lengths in words and in characters, ``[n]`` each.

    Raises:
        DataError: No reference has a word left after normalising.
    """
    import numpy as np

    jiwer = _jiwer()
    counts = []
    for reference, guess in zip(references, heard, strict=True):
        expected, actual = normalizer(reference).strip(), normalizer(guess).strip()
        if not expected:  # all that was heard is inserted; jiwer refuses an empty reference
            counts.append((len(actual.split()), 0, len(actual), 0))
            continue
        words, characters = jiwer.process_words(expected, actual), jiwer.process_characters(expected, actual)
        counts.append((*_totals(words), *_totals(characters)))
    names = ("word_errors", "words", "character_errors", "characters")
    columns = dict(zip(names, np.array(counts, dtype=np.int64).T, strict=True))
    if not columns["words"].any():
        raise DataError("no reference has a word to recognise", where=SpeechRecognition.name)
    return columns


def _totals(output: Any) -> tuple[int, int]:
    errors = output.substitutions + output.deletions
    return errors + output.insertions, errors + output.hits


def _jiwer() -> Any:
    return optional("jiwer", extra="speech", where=SpeechRecognition.name)


def _features(processor: Any, audio: Sequence[Any]) -> tuple[dict[str, Tensor], list[int]]:
    """The feature extractor's inputs for some recordings, and their lengths in samples."""
    extractor = getattr(processor, "feature_extractor", None)
    if extractor is None or getattr(processor, "tokenizer", None) is None:
        raise DataError("the model has no speech processor", hint="its folder lacks preprocessor or tokenizer files")
    return features(extractor, audio, SpeechRecognition.name)


def _labels(tokenizer: Any, texts: Sequence[Any], settings: EvaluationSettings) -> Tensor:
    """What is to be written ``[batch, longest]``, -100 after the end; an encoder-decoder's begin token is no label."""
    import torch

    start = settings.options.get("decoder_start_token_id")
    rows = [[token for token in tokenizer(str(text))["input_ids"] if token != start] for text in texts]
    length = max(map(len, rows))
    return torch.tensor([row + [-100] * (length - len(row)) for row in rows])


def _decoder_ids(tokenizer: Any, texts: Sequence[Any], start: int, settings: EvaluationSettings) -> Tensor:
    """What the decoder reads as it writes the references ``[batch, longest]``: the start token, then all but the end."""
    import torch

    rows = []
    for text in texts:
        ids = [token for token in tokenizer(str(text))["input_ids"] if token != start]  # Whisper's begins with it
        if ids and ids[-1] == tokenizer.eos_token_id:
            ids.pop()
        rows.append([start, *ids][: settings.options.get("max_target_positions")])
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else start
    length = max(map(len, rows))
    return torch.tensor([row + [pad] * (length - len(row)) for row in rows])
