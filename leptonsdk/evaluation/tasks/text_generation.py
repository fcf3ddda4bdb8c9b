"""Language modelling: perplexity per token, and how far the next-token distribution is from the baseline's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from leptonsdk.errors import DataError
from leptonsdk.evaluation.batching import batches, max_length
from leptonsdk.hooks import EvaluationSettings, Evaluator, Metric, Runner

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray
    from torch import Tensor

_WINDOW = 1024  # tokens; the usual length where perplexity is reported for small models
_JOINT = "\n\n"


class TextGeneration(Evaluator):
    """Perplexity over windows of the joined text; with a baseline at hand KL(baseline || model) per token and flips.

    The rows' texts are joined (``options["join"]``, two newlines by default) and cut into windows of ``max_length`` tokens
    (1,024 by default, or the model's limit if less). A window is one example; its first token is context only.
    """

    name = "text-generation"
    columns: ClassVar[Mapping[str, Sequence[str]]] = {"text": ("content", "document", "sentence")}
    required = (frozenset({"text"}),)
    options: ClassVar[frozenset[str] | None] = frozenset({"join"})
    metrics = (
        Metric(
            "perplexity",
            ("nll", "tokens"),
            statistic="exp_ratio",
            higher_is_better=False,
            description="Exponential of the mean negative log likelihood per token.",
        ),
        Metric(
            "kl",
            ("kl_sum", "tokens"),
            statistic="ratio",
            higher_is_better=False,
            reference=True,
            description="Kullback-Leibler divergence from the baseline, nats per token.",
        ),
        Metric(
            "flips",
            ("flipped", "tokens"),
            statistic="ratio",
            higher_is_better=False,
            reference=True,
            description="Share of positions whose likeliest token is not the baseline's (arXiv 2407.09141).",
        ),
    )
    length_input = "input_ids"

    def examples(self, rows: Dataset, processor: Any, settings: EvaluationSettings) -> Dataset:
        from datasets import Dataset

        if processor is None:
            raise DataError("the model has no tokenizer", where=self.name, hint="its folder lacks tokenizer files")
        joint = settings.options.get("join", _JOINT)
        tokens = processor(joint.join(rows["text"]), return_attention_mask=False, verbose=False)["input_ids"]
        window = min(max_length(processor, settings), settings.max_length or _WINDOW)
        windows = [tokens[start : start + window] for start in range(0, len(tokens), window)]
        if len(windows) > 1 and len(windows[-1]) < window:
            windows.pop()  # a short last window has little context, and would make a batch of its own shape
        if len(windows[0]) < 2:
            raise DataError("its text is shorter than two tokens", where=self.name)
        return Dataset.from_dict({"input_ids": windows})

    def encode(
        self, processor: Any, rows: Mapping[str, Sequence[Any]], settings: EvaluationSettings
    ) -> dict[str, Tensor]:
        import torch

        if "input_ids" not in rows:
            length = max_length(processor, settings)
            encoded = [processor(text, truncation=True, max_length=length)["input_ids"] for text in rows["text"]]
            rows = {"input_ids": [ids for ids in encoded if ids] or [[0]]}
        length = max(map(len, rows["input_ids"]))
        ids = torch.zeros(len(rows["input_ids"]), length, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(rows["input_ids"]):  # padded on the right, masked: causal, so nothing looks there
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def training_batch(
        self, processor: Any, rows: Mapping[str, Sequence[Any]], settings: EvaluationSettings
    ) -> dict[str, Tensor]:
        inputs = self.encode(processor, rows, settings)
        return {**inputs, "labels": inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)}

    def evaluate(
        self, runner: Runner, processor: Any, dataset: Dataset, settings: EvaluationSettings
    ) -> Mapping[str, NDArray[Any]]:
        import numpy as np
        import torch
        from torch.nn import functional

        nll, tokens, divergence, flipped = [], [], [], []
        for _, rows in batches(dataset, settings, self.name):
            inputs = self.encode(processor, rows, settings)
            counted = inputs["attention_mask"][:, 1:].bool()
            logits = runner(**inputs).logits[:, :-1].float()
            losses = functional.cross_entropy(logits.transpose(1, 2), inputs["input_ids"][:, 1:], reduction="none")
            nll.append((losses * counted).sum(dim=1, dtype=torch.float64))
            tokens.append(counted.sum(dim=1))
            if settings.reference is not None and settings.reference is not runner:
                expected = settings.reference(**inputs).logits[:, :-1].float()
                if expected.shape != logits.shape:  # a trimmed vocabulary: there is no divergence from another one
                    continue
                divergence.append((_divergence(expected, logits) * counted).sum(dim=1, dtype=torch.float64))
                flipped.append(((expected.argmax(dim=-1) != logits.argmax(dim=-1)) & counted).sum(dim=1))
        columns: dict[str, NDArray[Any]] = {"nll": torch.cat(nll).numpy(), "tokens": torch.cat(tokens).numpy()}
        if divergence:
            columns |= {"kl_sum": torch.cat(divergence).numpy(), "flipped": torch.cat(flipped).numpy()}
        elif settings.reference is runner:
            columns |= {"kl_sum": np.zeros(len(dataset)), "flipped": np.zeros(len(dataset), dtype=np.int64)}
        return columns


def _divergence(expected: Tensor, logits: Tensor) -> Tensor:
    """KL(expected || model) per position, from logits [batch, length, vocabulary]."""
    from torch.nn import functional

    target, actual = functional.log_softmax(expected, dim=-1), functional.log_softmax(logits, dim=-1)
    return (target.exp() * (target - actual)).sum(dim=-1)
