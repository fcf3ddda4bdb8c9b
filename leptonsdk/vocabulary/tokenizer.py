"""From a tokenizer object to its definition, and back to an object of the same class with fewer tokens."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leptonsdk.errors import UsageError
from leptonsdk.vocabulary.definition import Definition

_DEFINITION, _CONFIG = "tokenizer.json", "tokenizer_config.json"


def tokenizer_of(processor: Any) -> Any:
    """The tokenizer that a checkpoint's processor is, or has.

    Raises:
        UsageError: There is none, or none of the tokenizers library.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    if tokenizer is None or not hasattr(tokenizer, "convert_tokens_to_ids"):
        raise UsageError(
            "the model has no tokenizer", where="trim_vocabulary", hint="only text models have a vocabulary"
        )
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise UsageError(
            "its tokenizer is not of the tokenizers library",
            where=type(tokenizer).__name__,
            hint="a fast tokenizer, with a tokenizer.json, is needed",
        )
    return tokenizer


def with_tokenizer(processor: Any, tokenizer: Any) -> Any:
    """The processor with another tokenizer in it; the tokenizer itself where the processor is one."""
    if not hasattr(processor, "tokenizer"):
        return tokenizer
    changed = copy.copy(processor)
    changed.tokenizer = tokenizer
    return changed


def read_definition(tokenizer: Any) -> Definition:
    """What a fast tokenizer's tokenizer.json says."""
    return Definition(json.loads(tokenizer.backend_tokenizer.to_str()))


def rebuild(tokenizer: Any, definition: Definition, kept: Sequence[str], scratch: Path) -> Any:
    """A tokenizer of the same class that knows only these tokens, each with its place in ``kept`` as its id.

    It is written and read again, as a saved checkpoint will be.

    Raises:
        UsageError: The class does not take the ids from its file.
    """
    folder = Path(tempfile.mkdtemp(dir=scratch))
    try:
        tokenizer.save_pretrained(folder)
        text = json.dumps(definition.trimmed(kept), ensure_ascii=False)
        (folder / _DEFINITION).write_text(text, encoding="utf-8")
        _renumber_config(folder / _CONFIG, {token: number for number, token in enumerate(kept)})
        smaller = type(tokenizer).from_pretrained(folder)
    finally:
        shutil.rmtree(folder)
    smaller.name_or_path = tokenizer.name_or_path  # no trace of the scratch folder
    for key in ("name_or_path", "vocab_file", "tokenizer_file"):
        smaller.init_kwargs.pop(key, None)
    if smaller.convert_tokens_to_ids(list(kept)) != list(range(len(kept))) or len(smaller) != len(kept):
        raise UsageError("its tokenizer's ids cannot be changed", where=type(tokenizer).__name__)
    return smaller


def _renumber_config(path: Path, ids: dict[str, int]) -> None:
    """New ids in the config's table of added tokens, where it has one."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if table := config.get("added_tokens_decoder"):
        renumbered = {str(ids[entry["content"]]): entry for entry in table.values() if entry["content"] in ids}
        config["added_tokens_decoder"] = renumbered
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")
