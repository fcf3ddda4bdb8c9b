"""A config's parts, the numbers in them, and what a change of them is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

# A change of the config: values by the path to a part of it and the attribute's name.
Move = dict[tuple[tuple[str, ...], str], Any]
NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def parts(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """A config and the configs in it, with the path to each."""
    yield path, config
    for key in getattr(config, "sub_configs", {}):
        if hasattr(inner := getattr(config, key, None), "to_dict"):
            yield from parts(inner, (*path, key))


def integers(part: Any) -> list[tuple[str, int]]:
    return [
        (key, value)
        for key, value in vars(part).items()
        if isinstance(value, int) and not isinstance(value, bool) and not key.startswith("_") and "token_id" not in key
    ]


def counts_heads(key: str) -> bool:
    """Whether a number may be one of heads; the size of a head never changes here, even where that gives the same shapes."""
    return "head" in key and not key.endswith(("dim", "size"))
