"""That a teacher and a student speak of the same things: labels, vocabulary, tokens. Nothing here reads a weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from leptonsdk.errors import UsageError

_WHERE = "distillation"


def label_order(student: Any, teacher: Any) -> list[int] | None:
    """The teacher's class for each of the student's, from the configs' ``id2label``; None where they are the same.

    Labels without names (``LABEL_0`` …) are taken to be in the same order.

    Raises:
        UsageError: Their number or their names differ.
    """
    ours, theirs = _labels(student), _labels(teacher)
    if len(ours) != len(theirs):
        raise UsageError(
            f"the teacher has {len(theirs)} labels, the student {len(ours)}",
            where=_WHERE,
            hint="both need the same label map",
        )
    if ours == theirs or _nameless(ours) or _nameless(theirs):
        return None
    if sorted(ours) != sorted(theirs) or len(set(ours)) < len(ours):
        missing = sorted(set(ours) - set(theirs)) or ours
        raise UsageError(
            f"the labels differ: the student's {', '.join(missing[:5])} …, the teacher's {', '.join(theirs[:5])} …",
            where=_WHERE,
            hint="give both the same id2label; another order of the same names is fine",
        )
    return [theirs.index(label) for label in ours]


def _labels(config: Any) -> list[str]:
    return [str(name).casefold() for _, name in sorted((int(i), name) for i, name in config.id2label.items())]


def _nameless(labels: Sequence[str]) -> bool:
    return all(label == f"label_{i}" for i, label in enumerate(labels))


def shared_vocabulary(student: Any, teacher: Any, same_tokenizer: bool) -> int | None:
    """How many logits to compare; None where both have the same number.

    One tokenizer's models may be padded to different sizes: the first logits are compared then.

    Raises:
        UsageError: The sizes differ, and nothing says that the tokenizers are the same.
    """
    ours, theirs = (config.get_text_config().vocab_size for config in (student, teacher))
    if ours == theirs:
        return None
    if not same_tokenizer:
        raise UsageError(
            f"the teacher's vocabulary has {theirs} entries, the student's {ours}: different tokenizers cannot be distilled "
            "token by token",
            where=_WHERE,
            hint="take a teacher with the student's tokenizer",
        )
    return int(min(ours, theirs))


def tokenizer_of(processor: Any) -> Any:
    """The tokenizer in a processor, or None."""
    if hasattr(processor, "get_vocab"):
        return processor
    return getattr(processor, "tokenizer", None)


def find_tokenizer(model: Any, trust_remote_code: bool) -> Any:
    """The tokenizer in the folder or repository that a model was loaded from, or None."""
    from transformers import AutoTokenizer

    name = getattr(model, "name_or_path", "")
    if not name:
        return None
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    except Exception:  # a model without one, or a file of a format that this transformers cannot read
        return None


def check_tokenizers(student: Any, teacher: Any) -> bool:
    """Whether both are there and the same: every token that both know has one number; only added ones are one's own.

    Raises:
        UsageError: Both are there, and their vocabularies differ.
    """
    if student is None or teacher is None:
        return False
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    added = student.get_added_vocab().keys() | teacher.get_added_vocab().keys()
    clash = sorted(token for token in ours.keys() & theirs.keys() if ours[token] != theirs[token])
    lone = sorted((ours.keys() ^ theirs.keys()) - added)
    if clash or lone:
        raise UsageError(
            f"the tokenizers' vocabularies differ ({len(clash) + len(lone)} tokens, such as {(clash or lone)[0]!r}): different "
            "tokenizers cannot be distilled token by token",
            where=_WHERE,
            hint="take a teacher with the student's tokenizer",
        )
    return True
