"""Text to text by an encoder-decoder: summaries, translations, anything. What it writes greedily, and what it expects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from leptonsdk.errors import DataError, EvaluationError
from leptonsdk.evaluation.batching import batches, max_length, tokenize
from leptonsdk.evaluation.generating import generate
from leptonsdk.evaluation.overlap import (
    ROUGE_METRICS,
    TRANSLATION_METRICS,
    bleu_counts,
    check_packages,
    chrf_counts,
    rouge,
)
from leptonsdk.hooks import EvaluationSettings, Evaluator, Metric, Runner

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray
    from torch import Tensor

_NEW_TOKENS = 128
_IGNORED = -100
_PERPLEXITY = Metric(
    "perplexity",
    ("nll", "target_tokens"),
    statistic="exp_ratio",
    higher_is_better=False,
    description="Exponential of the mean negative log likelihood per token of the reference, read so far.",
)


class TextToText(Evaluator):
    """ROUGE, BLEU and chrF of greedy outputs, and the perplexity of the references.

    ``options``: ``prefix`` goes before every source (default: what the config's ``task_specific_params`` say for the task);
    ``max_new_tokens`` (128) ends an output; ``generate: false`` leaves outputs and their metrics out, so that a runtime that cannot
    write can be judged by its perplexity; ``bleu_tokenizer`` is sacrebleu's (``13a``).
    """

    name = "text2text-generation"
    columns: ClassVar[Mapping[str, Sequence[str]]] = {
        "source": ("input", "text", "question", "prompt"),
        "target": ("output", "answer", "completion", "response"),
    }
    required: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"source", "target"}),)
    metrics: ClassVar[tuple[Metric, ...]] = (*ROUGE_METRICS, *TRANSLATION_METRICS, _PERPLEXITY)
    length_input = "input_ids"
    options: ClassVar[frozenset[str] | None] = frozenset({"bleu_tokenizer", "generate", "max_new_tokens"})
    example_options: ClassVar[Sequence[Mapping[str, Any]]] = ({"max_new_tokens": 6},)

    def examples(self, rows: Dataset, processor: Any, settings: EvaluationSettings) -> Dataset:
        # One of them where nothing is scored.
        given = [role for role in ("source", "target") if role in rows.column_names]
        for role in given:
            for number, text in enumerate(rows[role]):
                if not isinstance(text, str):
                    raise DataError(f"the {role} of row {number} is no text: {str(text)[:60]}", where=self.name)
        if "target" in given and not any(text.strip() for text in rows["target"]):
            raise DataError("no target has a word", where=self.name)
        return rows

    def encode(
        self, processor: Any, rows: Mapping[str, Sequence[Any]], settings: EvaluationSettings
    ) -> dict[str, Tensor]:
        """The sources, and where there are targets what the decoder reads as it writes them."""
        inputs = self._sources(processor, rows, settings)
        if "target" in rows:
            inputs["decoder_input_ids"] = self._decoder_inputs(
                processor, self._labels(processor, rows, settings), settings
            )
        return inputs

    def training_batch(
        self, processor: Any, rows: Mapping[str, Sequence[Any]], settings: EvaluationSettings
    ) -> dict[str, Tensor]:
        labels = self._labels(processor, rows, settings)
        return {**self._sources(processor, rows, settings), "labels": labels}

    def evaluate(
        self, runner: Runner, processor: Any, dataset: Dataset, settings: EvaluationSettings
    ) -> Mapping[str, NDArray[Any]]:
        import torch
        from torch.nn import functional

        offered = {metric.name for metric in self.metrics}
        writes = bool(settings.options.get("generate", True))
        overlaps, translated = writes and "rougeL" in offered, writes and "bleu" in offered
        check_packages(self.name, rouge=overlaps, bleu=translated)
        limit = int(settings.options.get("max_new_tokens", _NEW_TOKENS))
        positions = settings.options.get("max_positions")
        if positions is not None:  # BART's decoder has no more, its start is one
            limit = min(limit, positions - 1)
        written: list[str] = []
        nll, tokens = [], []
        for _, rows in batches(dataset, settings, self.name):
            sources, labels = self._sources(processor, rows, settings), self._labels(processor, rows, settings)
            logits = runner(**sources, decoder_input_ids=self._decoder_inputs(processor, labels, settings)).logits
            losses = functional.cross_entropy(
                logits.float().transpose(1, 2), labels, ignore_index=_IGNORED, reduction="none"
            )
            nll.append(losses.sum(dim=1, dtype=torch.float64))
            tokens.append((labels != _IGNORED).sum(dim=1))
            if writes:
                ids = generate(runner, self.name, max_new_tokens=limit, **sources)
                written += processor.batch_decode(ids, skip_special_tokens=True)
        columns: dict[str, NDArray[Any]] = {"nll": torch.cat(nll).numpy(), "target_tokens": torch.cat(tokens).numpy()}
        references = list(dataset["target"])
        if overlaps:
            columns |= rouge(references, written, self.name)
        if translated:
            columns |= bleu_counts(references, written, self.name, settings.options.get("bleu_tokenizer"))
            columns |= chrf_counts(references, written, self.name)
        return columns

    def _sources(
        self, processor: Any, rows: Mapping[str, Sequence[Any]], settings: EvaluationSettings
    ) -> dict[str, Tensor]:
        prefix = settings.options.get("prefix", "")
        return tokenize(processor, [prefix + text for text in rows["source"]], settings)

    def _labels(self, processor: Any, rows: Mapping[str, Sequence[Any]], settings: EvaluationSettings) -> Tensor:
        """The targets' tokens ``[batch, longest]``, -100 after the end."""
        import torch

        encoded = processor(
            text_target=list(rows["target"]), truncation=True, max_length=max_length(processor, settings)
        )["input_ids"]
        longest = max(map(len, encoded))
        return torch.tensor([ids + [_IGNORED] * (longest - len(ids)) for ids in encoded])

    def _decoder_inputs(self, processor: Any, labels: Tensor, settings: EvaluationSettings) -> Tensor:
        """The start token, then all labels but the last: as the model itself makes them of labels."""
        import torch

        start = settings.options.get("decoder_start_token_id")
        if start is None:
            raise EvaluationError("its config names no decoder_start_token_id", where=self.name)
        pad = processor.pad_token_id if processor.pad_token_id is not None else start
        shifted = torch.cat([torch.full_like(labels[:, :1], start), labels[:, :-1]], dim=1)
        return shifted.masked_fill(shifted == _IGNORED, pad)


class Summarization(TextToText):
    """ROUGE-1, -2 and -L of greedy summaries, and the perplexity of the references; options as text2text-generation has them."""

    name = "summarization"
    columns: ClassVar[Mapping[str, Sequence[str]]] = {
        "source": ("document", "article", "text", "dialogue"),
        "target": ("summary", "highlights", "abstract"),
    }
    metrics = (*ROUGE_METRICS, _PERPLEXITY)


class Translation(TextToText):
    """Corpus BLEU and chrF of greedy translations, made of counts per example, and the perplexity of the references.

    Options as text2text-generation has them. A column ``translation`` with a text per language, as the Hub's data has it, needs
    the options ``source_language`` and ``target_language``, its keys.
    """

    name = "translation"
    columns: ClassVar[Mapping[str, Sequence[str]]] = {
        "source": ("text", "input"),
        "target": ("reference", "output"),
        "translation": (),
    }
    required = (frozenset({"source", "target"}), frozenset({"translation"}))
    metrics = (*TRANSLATION_METRICS, _PERPLEXITY)
    options = frozenset({"bleu_tokenizer", "generate", "max_new_tokens", "source_language", "target_language"})
    example_options = ({"max_new_tokens": 6, "source_language": "en", "target_language": "de"},)

    def examples(self, rows: Dataset, processor: Any, settings: EvaluationSettings) -> Dataset:
        if "source" not in rows.column_names or "target" not in rows.column_names:
            from datasets import Dataset

            languages = {role: settings.options.get(f"{role}_language") for role in ("source", "target")}
            known = sorted({language for row in rows["translation"] for language in row})
            if not set(languages.values()) <= set(known):
                raise DataError(
                    f"the column 'translation' has the languages {', '.join(known)}",
                    where=self.name,
                    hint="name two: options {source_language: …, target_language: …}",
                )
            texts = {role: [row[key] for row in rows["translation"]] for role, key in languages.items()}
            rows = Dataset.from_dict(texts)
        return super().examples(rows, processor, settings)
