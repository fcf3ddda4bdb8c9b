"""Answers as SQuAD compares them: the rules of its official scripts, versions 1.1 and 2.0 (Rajpurkar et al. 2016, 2018)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(a|an|the)\b")


def normalized(answer: str) -> str:
    """Lower case, without punctuation and articles, single spaces."""
    return " ".join(_ARTICLE.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(given: str, accepted: Sequence[str]) -> int:
    """1 if an answer equals one of the accepted ones, normalised, else 0."""
    return int(any(normalized(given) == normalized(answer) for answer in _golden(accepted)))


def f1(given: str, accepted: Sequence[str]) -> float:
    """The best F1 of an answer's words with one of the accepted answers', in [0, 1].

    No accepted answer means that the question has none: then, and where an answer has no word left, it is 1 for no words
    on both sides and 0 otherwise.
    """
    return max(_overlap(normalized(given).split(), normalized(answer).split()) for answer in _golden(accepted))


def _golden(accepted: Sequence[str]) -> Sequence[str]:
    return [answer for answer in accepted if normalized(answer)] or [""]


def _overlap(given: list[str], answer: list[str]) -> float:
    if not given or not answer:
        return float(given == answer)
    common = (Counter(given) & Counter(answer)).total()
    return 2 * common / (len(given) + len(answer))
