"""Masked language modelling: how well tokens are told that were hidden, the same ones for every model and run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from leptonsdk.errors import DataError
from leptonsdk.evaluation.batching import batches, max_length, tokenize
from leptonsdk.evaluation.windows import windows_of
from leptonsdk.hooks import EvaluationSettings, Evaluator, Metric, Runner

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray
    from torch import Tensor

_SHARE = 0.15
_IGNORED = -100


class FillMask(Evaluator):
    """Accuracy and perplexity over masked tokens.

    In each text ``options["masked_share"]`` (0.15) of the tokens, one at least, are replaced by the mask token, all of them (which learns no
    worse than BERT's mixture, https://arxiv.org/abs/2202.08005). Which ones follows from the text alone, so that every model is
    asked the same. A text that is longer than the model's input is several examples. The perplexity is that of the hidden
    tokens, many at once: compare it with the same share only, and not with pseudo-perplexities that hide one at a time.
    """

    name = "fill-mask"
    columns: ClassVar[Mapping[str, Sequence[str]]] = {"text": ("content", "document", "sentence")}
    required = (frozenset({"text"}),)
    options: ClassVar[frozenset[str] | None] = frozenset({"masked_share"})
    metrics = (
        Metric("accuracy", ("right", "masked"), statistic="ratio", description="Share of hidden tokens told right."),
        Metric(
            "perplexity",
            ("nll", "masked"),
            statistic="exp_ratio",
            higher_is_better=False,
            description="Exponential of the mean negative log likelihood per hidden token.",
        ),
        Metric(
            "log_loss",
            ("nll", "masked"),
            statistic="ratio",
            higher_is_better=False,
            description="Mean negative log likelihood per hidden token, nats.",
        ),
    )
    length_input = "input_ids"

    def examples(self, rows: Dataset, processor: Any, settings: EvaluationSettings) -> Dataset:
        from datasets import Dataset

        _mask_token(processor)
        texts = list(rows["text"])
        pieces = [piece for text in texts if text.strip() for piece in _pieces(processor, text, settings)]
        if not pieces:
            raise DataError("it has no text", where=self.name)
        return rows if pieces == texts else Dataset.from_dict({"text": pieces})

    def encode(
        self, processor: Any, rows: Mapping[str, Sequence[Any]], settings: EvaluationSettings
    ) -> dict[str, Tensor]:
        inputs = self.training_batch(processor, rows, settings)
        del inputs["labels"]
        return inputs

    def training_batch(
        self, processor: Any, rows: Mapping[str, Sequence[Any]], settings: EvaluationSettings
    ) -> dict[str, Tensor]:
        import torch

        mask, share = _mask_token(processor), settings.options.get("masked_share", _SHARE)
        inputs = tokenize(processor, rows["text"], settings)
        labels = torch.full_like(inputs["input_ids"], _IGNORED)
        for row, text in enumerate(rows["text"]):
            ids = inputs["input_ids"][row]
            special = processor.get_special_tokens_mask(ids.tolist(), already_has_special_tokens=True)
            hidden = torch.tensor(
                hidden_tokens(text, [i for i, s in enumerate(special) if not s], share), dtype=torch.long
            )
            labels[row, hidden] = ids[hidden]
            ids[hidden] = mask
        return {**inputs, "labels": labels}

    def evaluate(
        self, runner: Runner, processor: Any, dataset: Dataset, settings: EvaluationSettings
    ) -> Mapping[str, NDArray[Any]]:
        import torch
        from torch.nn import functional

        columns: dict[str, list[Tensor]] = {"right": [], "nll": [], "masked": []}
        for _, rows in batches(dataset, settings, self.name):
            inputs = self.training_batch(processor, rows, settings)
            labels = inputs.pop("labels")
            logits = runner(**inputs).logits.float()
            losses = functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=_IGNORED, reduction="none")
            columns["right"].append((logits.argmax(dim=-1) == labels).sum(dim=1))
            columns["nll"].append(losses.sum(dim=1, dtype=torch.float64))
            columns["masked"].append((labels != _IGNORED).sum(dim=1))
        found = {name: torch.cat(parts).numpy() for name, parts in columns.items()}
        if not found["masked"].any():
            raise DataError("no text has a token to hide", where=self.name)
        return found


def hidden_tokens(text: str, positions: Sequence[int], share: float) -> list[int]:
    """Which of some positions are hidden: drawn with a seed made of the text, at least one if there is any."""
    import numpy as np

    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    count = min(len(positions), max(1, round(share * len(positions))))
    return sorted(np.random.default_rng(seed).permutation(np.asarray(positions, dtype=np.int64))[:count].tolist())


def _pieces(tokenizer: Any, text: str, settings: EvaluationSettings) -> list[str]:
    """A text in parts that fit the model's input."""
    if not tokenizer.is_fast:  # it cannot tell where a part ends: the text is cut off
        return [text]
    windows = windows_of(tokenizer, text, length=max_length(tokenizer, settings), overlap=0)
    if len(windows) == 1:
        return [text]
    spans = [
        [span for span, part in zip(w.encoding.offsets, w.encoding.sequence_ids, strict=True) if part is not None]
        for w in windows
    ]
    return [text[span[0][0] : span[-1][1]] for span in spans if span]


def _mask_token(tokenizer: Any) -> int:
    if tokenizer is None or tokenizer.mask_token_id is None:
        raise DataError("the model's tokenizer has no mask token", where=FillMask.name)
    return int(tokenizer.mask_token_id)
