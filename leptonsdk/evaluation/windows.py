"""Texts that are longer than a model reads: cut into overlapping windows of tokens, each a model input of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from leptonsdk.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from leptonsdk.hooks import Runner


@dataclass(frozen=True)
class Window:
    """Tokens of one example.

    Attributes:
        inputs: Model inputs by name, unpadded, ``[tokens]`` each.
        encoding: The tokenizers library's: of each token the word (``word_ids``), the text (``sequence_ids``) and the
            characters (``offsets``) that it stands for.
    """

    inputs: dict[str, list[int]]
    encoding: Any


def fast(tokenizer: Any, where: str) -> Any:
    """The tokenizer, if it tells which word or characters each token stands for.

    Raises:
        DataError: There is none, or it is written in Python and cannot tell.
    """
    if tokenizer is None:
        raise DataError("the model has no tokenizer", where=where, hint="its folder lacks tokenizer files")
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(
            f"{type(tokenizer).__name__} does not tell which characters a token stands for",
            where=where,
            hint="save it as a fast tokenizer (tokenizer.json)",
        )
    return tokenizer


def windows_of(tokenizer: Any, *parts: Any, length: int, overlap: int) -> list[Window]:
    """One example's windows, in order; a single one where it fits.

    Args:
        tokenizer: A fast one.
        parts: A text, a list of words, or two texts, of which the first stands in every window and the second is cut.
        length: Tokens of a window at most, special ones included.
        overlap: Tokens that a window shares with the one before it.
    """
    encoded = tokenizer(
        *parts,
        is_split_into_words=not isinstance(parts[0], str),
        truncation="only_second" if len(parts) == 2 else True,
        max_length=length,
        stride=overlap,
        return_overflowing_tokens=True,
        return_attention_mask=True,
    )
    names = [name for name in (*tokenizer.model_input_names, "attention_mask") if name in encoded]
    return [
        Window({name: encoded[name][number] for name in names}, encoding)
        for number, encoding in enumerate(encoded.encodings)
    ]


def pad(tokenizer: Any, windows: Sequence[Window]) -> dict[str, Tensor]:
    """Windows as one batch of model inputs ``[windows, longest]``."""
    columns = {name: [window.inputs[name] for window in windows] for name in windows[0].inputs}
    return dict(tokenizer.pad(columns, return_tensors="pt"))


def outputs_of(
    runner: Runner, tokenizer: Any, windows: Sequence[Window], batch_size: int, *names: str
) -> Iterator[tuple[Tensor, ...]]:
    """For each window the named outputs of its tokens, ``[tokens, …]`` each, without the padding's."""
    for start in range(0, len(windows), batch_size):
        inputs = pad(tokenizer, windows[start : start + batch_size])
        outputs = runner(**inputs)
        for row, kept in enumerate(inputs["attention_mask"].bool()):
            yield tuple(getattr(outputs, name)[row][kept].float() for name in names)
