"""What a written text shares with its reference: ROUGE per example, and the counts that BLEU and chrF are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from leptonsdk.evaluation.packages import optional
from leptonsdk.hooks import Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

_EXTRA = "text"
_BLEU_ORDER, _CHRF_ORDER = 4, 6  # longest n-grams, in words and in characters: as many as the gate's statistics take
_ORDERS = range(1, _BLEU_ORDER + 1)
_ROUGE = ("rouge1", "rouge2", "rougeL")
_BLEU = (*(f"bleu_right_{n}" for n in _ORDERS), *(f"bleu_written_{n}" for n in _ORDERS), "bleu_length", "bleu_expected")
_CHRF = tuple(f"chrf_{what}_{n}" for n in range(1, _CHRF_ORDER + 1) for what in ("written", "expected", "right"))

ROUGE_METRICS = tuple(
    Metric(name, (name,), description=f"Mean F1 of {what} with the reference (Lin 2004, rouge-score without stemming).")
    for name, what in zip(_ROUGE, ("words", "word pairs", "the longest common subsequence"), strict=True)
)
TRANSLATION_METRICS = (
    Metric("bleu", _BLEU, statistic="bleu", description="Corpus BLEU, 0 to 100 (sacrebleu's defaults)."),
    Metric("chrf", _CHRF, statistic="chrf", description="Corpus chrF2, 0 to 100 (sacrebleu's defaults)."),
)


def rouge(references: Sequence[str], written: Sequence[str], where: str) -> dict[str, NDArray[Any]]:
    """Per example F1, in [0, 1], by Google's rouge-score: its words are runs of ``a`` to ``z`` and digits, of English that is.

    Raises:
        EvaluationError: The package is missing.
    """
    import numpy as np

    scorer = optional("rouge_score.rouge_scorer", extra=_EXTRA, where=where).RougeScorer(_ROUGE)
    scores = [scorer.score(*pair) for pair in zip(references, written, strict=True)]
    return {name: np.array([score[name].fmeasure for score in scores]) for name in _ROUGE}


def bleu_counts(
    references: Sequence[str], written: Sequence[str], where: str, tokenizer: str | None = None
) -> dict[str, NDArray[Any]]:
    """Per example the counts of BLEU (Papineni et al. 2002) with one reference: see `leptonsdk.gating.counts.bleu`.

    Args:
        references: One per example.
        written: The model's.
        where: The task, for errors.
        tokenizer: Of sacrebleu: ``13a`` (its default), ``zh``, ``char``, ``intl``, ….

    Raises:
        EvaluationError: The package is missing.
    """
    import numpy as np

    metrics = optional("sacrebleu.metrics", extra=_EXTRA, where=where)
    metric = metrics.BLEU(tokenize=tokenizer, effective_order=True)  # so it says of sentences; the counts are the same
    scores = [metric.sentence_score(guess, [reference]) for reference, guess in zip(references, written, strict=True)]
    rows = [(*score.counts, *score.totals, score.sys_len, score.ref_len) for score in scores]
    return dict(zip(_BLEU, np.array(rows, dtype=np.int64).T, strict=True))


def chrf_counts(references: Sequence[str], written: Sequence[str], where: str) -> dict[str, NDArray[Any]]:
    """Per example the counts of chrF (Popović 2015) with one reference: see `leptonsdk.gating.counts.chrf`.

    N-grams of characters without white space. Written ones of an order that the reference has none of do not count.

    Raises:
        EvaluationError: The package is missing.
    """
    import numpy as np

    ngrams = optional("sacrebleu.metrics.helpers", extra=_EXTRA, where=where).extract_all_char_ngrams
    rows = []
    for reference, guess in zip(references, written, strict=True):
        pairs = zip(ngrams(guess.rstrip(), _CHRF_ORDER), ngrams(reference.rstrip(), _CHRF_ORDER), strict=True)
        rows.append([
            count
            for found, expected in pairs
            for count in (found.total() if expected else 0, expected.total(), (found & expected).total())
        ])  # fmt: skip
    return dict(zip(_CHRF, np.array(rows, dtype=np.int64).T, strict=True))


def check_packages(where: str, *, rouge: bool, bleu: bool) -> None:
    """That the packages are there, before an hour of writing texts.

    Raises:
        EvaluationError: One is missing.
    """
    if rouge:
        optional("rouge_score.rouge_scorer", extra=_EXTRA, where=where)
    if bleu:
        optional("sacrebleu.metrics", extra=_EXTRA, where=where)
