"""Token ids in a model's configs: reading them, and giving them new numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

_ENDINGS = ("token_id", "token_ids", "token_index")  # pad_token_id, image_token_index …
_LISTS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "force_words_ids")
_TABLES = ("lang_to_id", "task_to_id")  # Whisper: name to id
_FORCED = "forced_decoder_ids"  # pairs of a position and an id

Number = Callable[[int], int | None]


def configs_of(model: Any) -> Iterator[Any]:
    """The model's config, those inside it, and its generation config."""
    waiting = [model.config]
    while waiting:
        config = waiting.pop()
        yield config
        waiting += [value for value in vars(config).values() if hasattr(value, "to_diff_dict")]
    if getattr(model, "generation_config", None) is not None:
        yield model.generation_config


def config_ids(model: Any) -> set[int]:
    """Every token id that the configs name, except those that they only forbid."""
    found: set[int] = set()

    def note(number: int) -> int:
        found.add(number)
        return number

    for config in configs_of(model):
        for key, value in vars(config).items():
            if key not in ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids"):
                renumbered(key, value, note)
    return {number for number in found if number >= 0}


def renumber_configs(model: Any, ids: Mapping[int, int], size: int) -> None:
    """Give the ids in a model's configs their new numbers, and its vocabularies of ``size`` tokens their new size.

    Ids beyond the vocabulary mean no token, and stay; forbidden ones that were dropped go.
    """
    for config in configs_of(model):
        for key, value in list(vars(config).items()):
            new = renumbered(key, value, lambda number: ids.get(number) if 0 <= number < size else number)
            if new != value:
                setattr(config, key, new)
            elif key == "vocab_size" and value == size:
                setattr(config, key, len(ids))


def renumbered(key: str, value: Any, number: Number) -> Any:
    """A config's value with its token ids passed through ``number``; the value itself where it holds none."""
    if key == _FORCED and isinstance(value, (list, tuple)):
        return [[place, None if token is None else number(token)] for place, token in value]
    if key in _TABLES and isinstance(value, Mapping):
        return {name: number(token) for name, token in value.items()}
    if key.endswith(_ENDINGS) or key in _LISTS:
        return _ids(value, number)
    return value


def _ids(value: Any, number: Number) -> Any:
    if isinstance(value, (list, tuple)):
        return [new for item in value if (new := _ids(item, number)) is not None]
    return number(value) if isinstance(value, int) and not isinstance(value, bool) else value
