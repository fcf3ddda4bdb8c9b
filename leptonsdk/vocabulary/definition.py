"""A fast tokenizer's definition (its tokenizer.json), and the same with fewer tokens. Plain data, no tokenizer library."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from leptonsdk.errors import UsageError
from leptonsdk.vocabulary.merges import MergeTable, merge_pair

KINDS = ("WordPiece", "BPE", "Unigram")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Definition:
    """What a tokenizer.json says.

    Attributes:
        data: All of it.
    """

    data: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(
                f"a tokenizer of the model {self.kind} cannot be trimmed", hint=f"these can: {', '.join(KINDS)}"
            )

    @property
    def model(self) -> Mapping[str, Any]:
        model: Mapping[str, Any] = self.data["model"]
        return model

    @property
    def kind(self) -> str:
        return str(self.model.get("type"))

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """The model's own tokens and their ids."""
        if self.kind == "Unigram":
            return {piece: number for number, (piece, _) in enumerate(self.model["vocab"])}
        return dict(self.model["vocab"])

    @cached_property
    def added(self) -> dict[str, int]:
        """Special and other added tokens and their ids; the model's vocabulary may have them too."""
        return {token["content"]: token["id"] for token in self.data.get("added_tokens") or ()}

    @cached_property
    def ids(self) -> dict[str, int]:
        """Every token's id."""
        return {**self.vocabulary, **self.added}

    def pieces(self) -> set[str]:
        """What any text that the tokenizer knows can be put together from: single characters and bytes, alone and inside a
        word, and the token for what it does not know.

        For WordPiece and Unigram also tokens with a character that does not stand alone in the vocabulary: dropping them
        could make a word unknown.
        """
        unknown = self._unknown()
        pieces = {token for token in self.vocabulary if len(self._body(token)) == 1 or _BYTE.fullmatch(token)}
        if self.kind != "BPE":
            for group in self._by_place():
                alone = {body for body in group if len(body) == 1}
                pieces |= {token for body, token in group.items() if not alone.issuperset(body)}
        if self.kind == "Unigram":  # an unknown character costs a little more than the least likely piece
            pieces.add(min(self.model["vocab"], key=lambda entry: entry[1])[0])
        return pieces | ({unknown} if unknown is not None else set())

    def _unknown(self) -> str | None:
        if self.kind == "Unigram":
            number = self.model.get("unk_id")
            return None if number is None else str(self.model["vocab"][number][0])
        token = self.model.get("unk_token")
        return token if token in self.vocabulary else None

    def _prefix(self) -> str:
        return self.model.get("continuing_subword_prefix") or ""

    def _body(self, token: str) -> str:
        """A token without the marks for the inside and the end of a word."""
        prefix, suffix = self._prefix(), self.model.get("end_of_word_suffix") or ""
        body = token.removeprefix(prefix) if token != prefix else token
        return body.removesuffix(suffix) if body != suffix else body

    def _by_place(self) -> list[dict[str, str]]:
        """Body to token, of tokens that begin a word and of those inside one; added tokens are left out."""
        prefix = self._prefix()
        groups: list[dict[str, str]] = [{}, {}]
        for token in self.vocabulary:
            if token not in self.added:
                inside = bool(prefix) and token != prefix and token.startswith(prefix)
                groups[inside][self._body(token)] = token
        return groups

    def trimmed(self, kept: Sequence[str]) -> dict[str, Any]:
        """The definition with these tokens only, each with its place in ``kept`` as its id."""
        data: dict[str, Any] = copy.deepcopy(dict(self.data))
        ids = {token: number for number, token in enumerate(kept)}
        model = data["model"]
        if self.kind == "Unigram":
            scores = dict(self.model["vocab"])
            model["vocab"] = [[token, scores[token]] for token in kept if token in scores]
            unknown = self._unknown()
            model["unk_id"] = None if unknown is None else ids[unknown]
        else:
            model["vocab"] = {token: number for token, number in ids.items() if token in self.vocabulary}
        if self.kind == "BPE":
            table, known = MergeTable(self.model), model["vocab"]
            model["merges"] = [
                merge
                for merge in self.model["merges"]
                if all(part in known for part in (*merge_pair(merge), table.joined(*merge_pair(merge))))
            ]
        for token in data.get("added_tokens") or ():
            token["id"] = ids[token["content"]]
        _renumber(data.get("post_processor"), ids)
        if isinstance(padding := data.get("padding"), dict) and padding.get("pad_token") in ids:
            padding["pad_id"] = ids[padding["pad_token"]]
        return data


def _renumber(processor: Any, ids: Mapping[str, int]) -> None:
    """New ids for the tokens that a post-processor adds: a template's, BERT's and RoBERTa's, or those of several in a row."""
    if not isinstance(processor, dict):
        return
    for inner in processor.get("processors") or ():
        _renumber(inner, ids)
    for entry in (processor.get("special_tokens") or {}).values():
        entry["ids"] = [ids[token] for token in entry["tokens"]]
    for place in ("sep", "cls"):
        if place in processor:
            token = processor[place][0]
            processor[place] = [token, ids[token]]
