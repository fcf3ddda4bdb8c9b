"""Byte-pair encoding's merges: which tokens one is put together from.

A token of a text was merged from its own characters as if it stood alone: a merge across its edges would have made another
token. So the merges of each kept token, carried out alone, are all that the texts need which were counted; fewer merges beside
them change nothing, since the one of lowest rank is still there at every step (Sennrich et al., arXiv 1508.07909).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any


class MergeTable:
    """The merges of a BPE model (``model`` of a tokenizer.json), by rank."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        self.prefix = model.get("continuing_subword_prefix") or ""
        self.suffix = model.get("end_of_word_suffix") or ""
        self.ranks = {pair: rank for rank, pair in reversed(list(enumerate(map(merge_pair, model["merges"]))))}

    def joined(self, left: str, right: str) -> str:
        """The token that a merge makes."""
        return left + right.removeprefix(self.prefix)

    def parts(self, token: str) -> set[str]:
        """Every token on the way from a token's characters to itself. None where merges do not lead to it, which tokenizers
        that look whole words up first (``ignore_merges``) and byte fallbacks (``<0x0A>``) have.
        """
        symbols = self._characters(token)
        made = set(symbols)
        while len(symbols) > 1:
            pairs = list(pairwise(symbols))
            place = min(
                range(len(pairs)), key=lambda i: self.ranks.get(pairs[i], len(self.ranks))
            )  # the first of equals
            if pairs[place] not in self.ranks:
                return set()
            symbols[place : place + 2] = [self.joined(*pairs[place])]
            made.add(symbols[place])
        return made if symbols == [token] else set()

    def _characters(self, token: str) -> list[str]:
        ends = bool(self.suffix) and token.endswith(self.suffix) and token != self.suffix
        body = token[: -len(self.suffix)] if ends else token
        first = self.prefix if self.prefix and body.startswith(self.prefix) else ""
        body = body.removeprefix(first)
        symbols = [f"{first if place == 0 else self.prefix}{c}" for place, c in enumerate(body)]
        return [*symbols[:-1], symbols[-1] + self.suffix] if ends and symbols else symbols


def merge_pair(merge: Any) -> tuple[str, str]:
    """A merge as a pair: tokenizer.json has lists, older ones have strings with a space."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return str(left), str(right)
