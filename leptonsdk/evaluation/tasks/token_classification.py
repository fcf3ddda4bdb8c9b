"""Classification of words: entities (seqeval's F1) where the labels mark some, the share of right words in any case."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from leptonsdk.errors import DataError, EvaluationError
from leptonsdk.evaluation.batching import batches, max_length
from leptonsdk.evaluation.packages import optional
from leptonsdk.evaluation.windows import Window, fast, outputs_of, windows_of
from leptonsdk.hooks import EvaluationSettings, Evaluator, Metric, Runner

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray
    from torch import Tensor

_OUTSIDE = "O"
_ENTITY_TAG = re.compile(r"O|[BIES]-.+")
_UNNAMED = re.compile(r"LABEL_\d+")
_IGNORED = -100
_ENTITIES = ("entities_right", "entities_predicted", "entities_true")


class TokenClassification(Evaluator):
    """Entities found, and words labelled right.

    A word's label is that of its first piece. Long sentences are read in windows that overlap by a quarter, each word where
    it has the most context. An entity counts where its words and its type are exactly right, with conlleval's reading of tags
    (Ramshaw and Marcus 1995; an ``I-`` without a ``B-`` begins an entity), seqeval's default; the metrics are its micro averages,
    made of counts per example. Labels without ``B-`` and ``I-`` (parts of speech) have an accuracy only.
    """

    name = "token-classification"
    columns: ClassVar[Mapping[str, Sequence[str]]] = {
        "tokens": ("words",),
        "tags": ("ner_tags", "labels", "pos_tags", "chunk_tags"),
    }
    required = (frozenset({"tokens", "tags"}),)
    options: ClassVar[frozenset[str] | None] = frozenset()
    metrics = (
        Metric("f1", _ENTITIES, statistic="f1_counts", description="F1 of the entities (seqeval, micro)."),
        Metric(
            "precision", _ENTITIES[:2], statistic="share", description="Share of predicted entities that are right."
        ),
        Metric(
            "recall",
            ("entities_right", "entities_true"),
            statistic="share",
            description="Share of true entities that are found.",
        ),
        Metric(
            "accuracy", ("words_right", "words"), statistic="ratio", description="Share of words whose label is right."
        ),
    )
    length_input = "input_ids"

    def examples(self, rows: Dataset, processor: Any, settings: EvaluationSettings) -> Dataset:
        if "tags" not in rows.column_names:  # for inputs only
            return rows
        _check(rows, self.name)
        names, label2id = class_names(rows), settings.options.get("label2id", {})
        if names is not None and not _unnamed(label2id):  # the model may number the same labels otherwise
            from datasets import List, Value

            tags = [[names[tag] for tag in row] for row in rows["tags"]]
            rows = rows.remove_columns("tags").add_column("tags", tags, feature=List(Value("string")))
        tag_ids(rows["tags"], label2id)
        return rows

    def encode(
        self, processor: Any, rows: Mapping[str, Sequence[Any]], settings: EvaluationSettings
    ) -> dict[str, Tensor]:
        return dict(self._encoded(processor, rows, settings))

    def training_batch(
        self, processor: Any, rows: Mapping[str, Sequence[Any]], settings: EvaluationSettings
    ) -> dict[str, Tensor]:
        import torch

        encoded = self._encoded(processor, rows, settings)
        labels = torch.full_like(encoded["input_ids"], _IGNORED)
        for row, tags in enumerate(tag_ids(rows["tags"], settings.options.get("label2id", {}))):
            for position, word in first_pieces(encoded.word_ids(row)):
                labels[row, position] = tags[word]
        return {**encoded, "labels": labels}

    def evaluate(
        self, runner: Runner, processor: Any, dataset: Dataset, settings: EvaluationSettings
    ) -> Mapping[str, NDArray[Any]]:
        import numpy as np

        label2id = settings.options.get("label2id", {})
        true = tag_ids(dataset["tags"], label2id)
        names = entity_names(label2id, class_names(dataset))
        if names is not None:
            optional("seqeval", extra="text", where=self.name)
        length = max_length(fast(processor, self.name), settings)
        overlap = max(0, length - processor.num_special_tokens_to_add()) // 4
        predicted: list[list[int]] = []
        for _, rows in batches(dataset, settings, self.name):
            cut = [windows_of(processor, words, length=length, overlap=overlap) for words in rows["tokens"]]
            flat = [window for windows in cut for window in windows]
            labels = (
                logits.argmax(dim=-1).tolist()
                for (logits,) in outputs_of(runner, processor, flat, settings.batch_size, "logits")
            )
            for words, windows in zip(rows["tokens"], cut, strict=True):
                found = word_labels([(window, next(labels)) for window in windows])
                # A word that the tokenizer knows no piece of (a control character) has no label: the commonest is right.
                predicted.append([found.get(word, label2id.get(_OUTSIDE, -1)) for word in range(len(words))])
        pairs = list(zip(true, predicted, strict=True))
        columns = {
            "words_right": np.array([sum(map(int.__eq__, *pair)) for pair in pairs]),
            "words": np.array([len(tags) for tags in true]),
        }
        return columns if names is None else {**columns, **count_entities(pairs, names)}

    def _encoded(self, processor: Any, rows: Mapping[str, Sequence[Any]], settings: EvaluationSettings) -> Any:
        words = [tokens.split() if isinstance(tokens, str) else tokens for tokens in rows["tokens"]]
        return fast(processor, self.name)(
            words,
            is_split_into_words=True,
            padding=True,
            truncation=True,
            max_length=max_length(processor, settings),
            return_tensors="pt",
        )


def first_pieces(word_ids: Sequence[int | None]) -> Iterable[tuple[int, int]]:
    """(position, word) of each word's first token."""
    before = None
    for position, word in enumerate(word_ids):
        if word is not None and word != before:
            yield position, word
        before = word


def word_labels(windows: Iterable[tuple[Window, Sequence[int]]]) -> dict[int, int]:
    """Word to label, from the tokens' labels in each window: where it stands farthest from a window's ends.

    A word whose first piece was left behind in the window before stands at the very end, and so never counts.
    """
    best: dict[int, tuple[int, int]] = {}
    for window, labels in windows:
        for position, word in first_pieces(window.encoding.word_ids):
            context = min(position, len(labels) - 1 - position)
            if word not in best or context > best[word][0]:
                best[word] = context, labels[position]
    return {word: label for word, (_, label) in best.items()}


def count_entities(
    pairs: Iterable[tuple[Sequence[int], Sequence[int]]], names: Mapping[int, str]
) -> dict[str, NDArray[Any]]:
    """Per example of true and predicted classes: entities that are right, predicted, and true, ``[n]`` each."""
    import numpy as np

    entities = optional("seqeval.metrics.sequence_labeling", extra="text", where=TokenClassification.name).get_entities
    counts = []
    for true, predicted in pairs:
        expected, found = ({*entities([names.get(tag, _OUTSIDE) for tag in tags])} for tags in (true, predicted))
        counts.append((len(expected & found), len(found), len(expected)))
    return dict(zip(_ENTITIES, np.array(counts, dtype=np.int64).T, strict=True))


def entity_names(label2id: Mapping[str, int], own: Sequence[str] | None) -> dict[int, str] | None:
    """Class to tag, by the model or, where it names none, by the data; None where the tags mark no entities."""
    names = {number: name for name, number in label2id.items()}
    if own is not None and _unnamed(label2id):
        names = dict(enumerate(own))
    marked = names and all(_ENTITY_TAG.fullmatch(name) for name in names.values())
    return names if marked and set(names.values()) != {_OUTSIDE} else None


def _unnamed(label2id: Mapping[str, int]) -> bool:
    return all(_UNNAMED.fullmatch(name) for name in label2id)


def class_names(rows: Dataset) -> list[str] | None:
    """The names that the data itself gives its numbered tags, or None."""
    feature = getattr(rows.features["tags"], "feature", None)
    names = getattr(feature, "names", None)
    return list(names) if names else None


def tag_ids(rows: Sequence[Sequence[Any]], label2id: Mapping[str, int]) -> list[list[int]]:
    """Tags as the model's class numbers.

    Raises:
        DataError: A name or a number that the model does not have.
    """
    known: set[Any] = set(label2id) | set(label2id.values())
    unknown = {tag for tags in rows for tag in tags if tag not in known}
    if unknown:
        shown = ", ".join(sorted(map(str, unknown))[:5])
        raise DataError(f"labels unknown to the model: {shown}", where=TokenClassification.name, hint=f"it knows {list(label2id)}")  # fmt: skip
    return [[label2id[tag] if isinstance(tag, str) else int(tag) for tag in tags] for tags in rows]


def _check(rows: Dataset, where: str) -> None:
    for number, (words, tags) in enumerate(zip(rows["tokens"], rows["tags"], strict=True)):
        if isinstance(words, str) or isinstance(tags, str):
            role, value = ("tokens", words) if isinstance(words, str) else ("tags", tags)
            raise DataError(f"{role} of row {number} is a text, not a list: {value[:40]!r}", where=where, hint="a json file can hold lists")  # fmt: skip
        if len(words) != len(tags):
            raise DataError(f"row {number} has {len(words)} tokens and {len(tags)} tags", where=where)
        if any(not isinstance(tag, str) and tag < 0 for tag in tags):
            raise DataError(f"a tag of row {number} is negative", where=where, hint="every word needs a label")
    if not any(rows["tokens"]):
        raise EvaluationError("no row has a word", where=where)
