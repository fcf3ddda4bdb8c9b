"""Sentence embeddings: retrieval (a query's own passage among all passages) and similarity of sentence pairs.

Pooling follows the model's sentence-transformers files, mean where there are none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from leptonsdk.errors import EvaluationError, UsageError
from leptonsdk.evaluation.batching import tokenize
from leptonsdk.hooks import EvaluationSettings, Evaluator, Metric, Runner

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray
    from torch import Tensor

_RANK_BLOCK = 256  # queries whose similarities to all passages are held at once


class FeatureExtraction(Evaluator):
    """Retrieval (``query``, ``passage``) or similarity (``sentence1``, ``sentence2``, ``score``), by cosine."""

    name = "feature-extraction"
    columns: ClassVar[Mapping[str, Sequence[str]]] = {
        "query": ("question", "anchor"),
        "passage": ("positive", "context", "document", "answer"),
        "sentence1": ("text1",),
        "sentence2": ("text2",),
        "score": ("similarity", "similarity_score", "label"),
    }
    required = (frozenset({"query", "passage"}), frozenset({"sentence1", "sentence2", "score"}))
    options: ClassVar[frozenset[str] | None] = frozenset()
    metrics = (
        Metric("mrr@10", ("reciprocal_rank",), description="Mean reciprocal rank of the passage, 0 beyond rank 10."),
        Metric("recall@1", ("hit_1",), binary=True, description="Share of queries whose passage ranks first."),
        Metric("recall@10", ("hit_10",), binary=True, description="Share of queries whose passage is in the first 10."),
        Metric(
            "spearman", ("cosine", "score"), statistic="spearman", description="Rank correlation with the gold score."
        ),
    )
    length_input = "input_ids"

    def encode(
        self, processor: Any, rows: Mapping[str, Sequence[Any]], settings: EvaluationSettings
    ) -> dict[str, Tensor]:
        # Texts that are not scored (calibration) may stand under any one role.
        roles = ("passage",) if _retrieves(rows) else ("sentence1", "query", "passage", "sentence2")
        return tokenize(processor, rows[next((role for role in roles if role in rows), "sentence1")], settings)

    def evaluate(
        self, runner: Runner, processor: Any, dataset: Dataset, settings: EvaluationSettings
    ) -> Mapping[str, NDArray[Any]]:
        import numpy as np
        import torch

        if _retrieves(dataset.column_names):
            queries = embed(runner, processor, dataset["query"], settings, "queries")
            passages = list(dict.fromkeys(dataset["passage"]))
            places = {passage: place for place, passage in enumerate(passages)}
            wanted = torch.tensor([places[passage] for passage in dataset["passage"]])
            ranks = ranks_of(queries, embed(runner, processor, passages, settings, "passages"), wanted)
            return {
                "rank": ranks,
                "reciprocal_rank": np.where(ranks <= 10, 1.0 / ranks, 0.0),
                "hit_1": (ranks <= 1).astype(np.int64),
                "hit_10": (ranks <= 10).astype(np.int64),
            }
        first = embed(runner, processor, dataset["sentence1"], settings, "sentences 1")
        second = embed(runner, processor, dataset["sentence2"], settings, "sentences 2")
        return {
            "cosine": (first * second).sum(dim=1).double().numpy(),
            "score": np.asarray(dataset["score"], dtype=np.float64),
        }


def _retrieves(columns: Collection[str]) -> bool:
    """Whether these columns are queries with their passages; a passage alone stands beside pairs of sentences by chance."""
    return {"query", "passage"} <= set(columns)


def embed(runner: Runner, tokenizer: Any, texts: Sequence[str], settings: EvaluationSettings, what: str) -> Tensor:
    """Unit embeddings ``[n, width]``. Texts of like length share a batch, so that little is padded."""
    import torch
    from torch.nn import functional

    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    rows: list[Tensor] = []
    for start in range(0, len(order), settings.batch_size):
        chosen = order[start : start + settings.batch_size]
        inputs = tokenize(tokenizer, [texts[i] for i in chosen], settings)
        outputs = runner(**inputs)
        hidden = outputs.last_hidden_state.float()
        rows.append(
            functional.normalize(pool(hidden, inputs["attention_mask"], settings.options.get("pooling")), dim=1)
        )
        settings.progress(min(start + settings.batch_size, len(order)), len(order), what)
    embedded = torch.cat(rows)
    if not bool(torch.isfinite(embedded).all()):
        raise EvaluationError("the model gives embeddings that are not finite", where="feature-extraction")
    return embedded[torch.argsort(torch.tensor(order))]


def pool(hidden: Tensor, mask: Tensor, how: str | None) -> Tensor:
    """One vector per text from ``hidden`` [batch, length, width] and ``mask`` [batch, length].

    Args:
        how: sentence-transformers' ``pooling_mode``; the vectors of several, joined by ``+``, are put side by side. Default: mean.

    Raises:
        UsageError: There is no such mode.
    """
    import torch

    modes = (how or "mean").split("+")
    for mode in modes:
        if mode not in _POOLING:
            raise UsageError(
                f"no pooling '{mode}'", where="pooling", hint=f"there are {', '.join(_POOLING)}; several joined by +"
            )
    return torch.cat([_POOLING[mode](hidden, mask) for mode in modes], dim=1)


def _first(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden[range(len(hidden)), mask.argmax(dim=1)]  # that is no padding


def _last(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden[range(len(hidden)), mask.shape[1] - 1 - mask.flip(1).argmax(dim=1)]


def _max(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden.masked_fill(mask.unsqueeze(-1) == 0, float("-inf")).amax(dim=1)


def _mean(hidden: Tensor, weight: Tensor, power: float = 1.0) -> Tensor:
    weight = weight.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-9) ** power


_POOLING: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": _mean,
    "cls": _first,
    "lasttoken": _last,
    "max": _max,
    "mean_sqrt_len_tokens": lambda hidden, mask: _mean(hidden, mask, 0.5),
    "weightedmean": lambda hidden, mask: _mean(hidden, mask * mask.cumsum(dim=1)),  # a later token counts for more
}


def ranks_of(queries: Tensor, passages: Tensor, wanted: Tensor) -> NDArray[Any]:
    """Rank ``[n]`` (1 is best) of each query's passage among all. A tie counts against the model."""
    import torch

    ranks = []
    for start in range(0, len(queries), _RANK_BLOCK):
        similarity = queries[start : start + _RANK_BLOCK] @ passages.T
        own = similarity.gather(1, wanted[start : start + _RANK_BLOCK, None])
        ranks.append((similarity >= own).sum(dim=1))
    return torch.cat(ranks).numpy()
