"""Cutting rows into batches, for every task the same way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from leptonsdk.errors import DataError
from leptonsdk.hooks import EvaluationSettings

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

_NO_LIMIT = 100_000  # tokenizers state "no limit" as a huge number
_DEFAULT_LENGTH = 512


def batches(rows: Dataset, settings: EvaluationSettings, what: str) -> Iterator[tuple[range, dict[str, list[Any]]]]:
    """Index ranges with their rows (role -> values), in order, reporting progress."""
    total = len(rows)
    for start in range(0, total, settings.batch_size):
        stop = min(start + settings.batch_size, total)
        yield range(start, stop), rows[start:stop]
        settings.progress(stop, total, what)


def tokenize(
    tokenizer: Any, texts: Sequence[str], settings: EvaluationSettings, pairs: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Texts as padded model inputs ``[batch, longest]``, truncated at the model's limit or the asked one."""
    if tokenizer is None:
        raise DataError("the model has no tokenizer", hint="its folder lacks tokenizer files")
    encoded = tokenizer(
        list(texts),
        None if pairs is None else list(pairs),
        padding=True,
        truncation=True,
        max_length=max_length(tokenizer, settings),
        return_tensors="pt",
    )
    return dict(encoded)


def max_length(tokenizer: Any, settings: EvaluationSettings) -> int:
    """The longest input in tokens: as asked, else the tokenizer's and the model's limit."""
    own = getattr(tokenizer, "model_max_length", None)
    limits = [value for value in (own, settings.options.get("max_positions")) if value and value < _NO_LIMIT]
    if settings.max_length is not None:
        limits.append(settings.max_length)
    return int(min(limits)) if limits else _DEFAULT_LENGTH
