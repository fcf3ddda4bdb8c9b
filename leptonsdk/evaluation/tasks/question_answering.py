"""Extractive question answering in SQuAD's format: the span of a context that answers, exact match and F1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from leptonsdk.errors import DataError
from leptonsdk.evaluation.answers import exact_match, f1
from leptonsdk.evaluation.batching import batches, max_length
from leptonsdk.evaluation.windows import Window, fast, outputs_of, pad, windows_of
from leptonsdk.hooks import EvaluationSettings, Evaluator, Metric, Runner

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray
    from torch import Tensor

_OVERLAP = 128  # tokens that windows share
_LONGEST = 30  # tokens of an answer
_CONTEXT = 1  # the second text of an input


class QuestionAnswering(Evaluator):
    """Exact match and F1 (shares, not per cent) by the rules of SQuAD's scripts, best over a question's accepted answers.

    ``answers`` holds ``{"text": [...], "answer_start": [...]}`` as SQuAD has it, a text, or a list of texts, in which case the first
    place in the context that reads so is learnt. No answer means that the question has none; where the data has such questions,
    the model may say so too: when its score for the first token is above that of the best span by more than
    ``options["null_threshold"]`` (0). A long context is read in windows that share ``options["stride"]`` tokens (128), of which the best span
    wins; it has ``options["max_answer_length"]`` tokens (30) at most.
    """

    name = "question-answering"
    columns: ClassVar[Mapping[str, Sequence[str]]] = {
        "question": ("query",),
        "context": ("passage", "paragraph"),
        "answers": ("answer",),
    }
    required = (frozenset({"question", "context", "answers"}),)
    options: ClassVar[frozenset[str] | None] = frozenset({"max_answer_length", "null_threshold", "stride"})
    metrics = (
        Metric("exact_match", ("exact_match",), binary=True, description="Share of answers that are exactly right."),
        Metric("f1", ("f1",), description="Mean F1 of the answers' words."),
    )
    length_input = "input_ids"

    def examples(self, rows: Dataset, processor: Any, settings: EvaluationSettings) -> Dataset:
        fast(processor, self.name)
        for number, row in enumerate(rows):
            for role in ("question", "context"):
                if not isinstance(row[role], str):
                    raise DataError(f"the {role} of row {number} is no text", where=self.name)
            try:
                accepted(row["answers"])
            except (TypeError, KeyError, ValueError) as error:
                raise DataError(
                    f"the answers of row {number} are not understood: {str(row['answers'])[:60]}",
                    where=self.name,
                    hint='give {"text": [...], "answer_start": [...]}, or a list of texts',
                ) from error
        return rows

    def encode(
        self, processor: Any, rows: Mapping[str, Sequence[Any]], settings: EvaluationSettings
    ) -> dict[str, Tensor]:
        """The first window of each row."""
        pairs = zip(rows["question"], rows["context"], strict=True)
        return pad(fast(processor, self.name), [_windows(processor, *pair, settings)[0] for pair in pairs])

    def training_batch(
        self, processor: Any, rows: Mapping[str, Sequence[Any]], settings: EvaluationSettings
    ) -> dict[str, Tensor]:
        """Every window of each row; where a window does not hold the whole answer, its first token is the answer."""
        import torch

        found, spans = [], []
        for question, context, answers in zip(rows["question"], rows["context"], rows["answers"], strict=True):
            place = place_of(answers, context, self.name)
            for window in _windows(fast(processor, self.name), question, context, settings):
                found.append(window)
                spans.append(_token_span(window, place, processor))
        inputs = pad(processor, found)
        # Padding on the left moves every token.
        moved = inputs["attention_mask"].argmax(dim=1) if processor.padding_side == "left" else 0
        starts, ends = torch.tensor(spans).T
        return {**inputs, "start_positions": starts + moved, "end_positions": ends + moved}

    def evaluate(
        self, runner: Runner, processor: Any, dataset: Dataset, settings: EvaluationSettings
    ) -> Mapping[str, NDArray[Any]]:
        import numpy as np

        golden = [accepted(answers) for answers in dataset["answers"]]
        threshold = settings.options.get("null_threshold", 0.0) if not all(golden) else None
        given: list[str] = []
        for _, rows in batches(dataset, settings, self.name):
            pairs = list(zip(rows["question"], rows["context"], strict=True))
            cut = [_windows(processor, *pair, settings) for pair in pairs]
            flat = [window for windows in cut for window in windows]
            scores = outputs_of(runner, processor, flat, settings.batch_size, "start_logits", "end_logits")
            for windows, (_, context) in zip(cut, pairs, strict=True):
                scored = [(window, next(scores)) for window in windows]
                place = best_place(scored, processor, settings.options.get("max_answer_length", _LONGEST), threshold)
                given.append("" if place is None else context[slice(*place)])
        both = list(zip(given, golden, strict=True))
        return {
            "exact_match": np.array([exact_match(*pair) for pair in both]),
            "f1": np.array([f1(*pair) for pair in both]),
        }


def accepted(answers: Any) -> list[str]:
    """The texts of a row's answers; none where the question has no answer.

    Raises:
        TypeError: It has none of the known forms.
    """
    if isinstance(answers, Mapping):
        answers = answers["text"]
    texts = [answers] if isinstance(answers, str) else list(answers if answers is not None else ())
    texts = [text["text"] if isinstance(text, Mapping) else text for text in texts]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("an answer is no text")
    return texts


def place_of(answers: Any, context: str, where: str) -> tuple[int, int] | None:
    """The first answer's characters in the context, or None without one.

    Raises:
        DataError: It does not stand in the context.
    """
    texts = accepted(answers)
    if not texts:
        return None
    if isinstance(answers, Mapping):
        starts = answers.get("answer_start")
    else:
        starts = [answer.get("answer_start") for answer in answers if isinstance(answer, Mapping)]
    start = int(starts[0]) if starts and starts[0] is not None else -1
    if start < 0 or not context.startswith(texts[0], start):
        start = context.find(texts[0])
    if start < 0:
        raise DataError(f"an answer does not stand in its context: {texts[0][:60]!r}", where=where)
    return start, start + len(texts[0])


def best_place(
    scored: Iterable[tuple[Window, Sequence[Tensor]]], tokenizer: Any, longest: int, threshold: float | None
) -> tuple[int, int] | None:
    """The best span over an example's windows, in characters of the context; None for no answer.

    Args:
        scored: Windows with their start and end scores, ``[tokens]`` each.
        tokenizer: Its first token stands for no answer.
        longest: Tokens of the span at most.
        threshold: How far no answer must be above the best span; None where every question has an answer.
    """
    best, place, none = float("-inf"), None, float("inf")
    for window, (start, end) in scored:
        first = _first_token(window, tokenizer)
        none = min(none, float(start[first] + end[first]))
        inside = [position for position, part in enumerate(window.encoding.sequence_ids) if part == _CONTEXT]
        if not inside:
            continue
        low, high = inside[0], inside[-1] + 1
        spans = start[low:high, None] + end[None, low:high]
        allowed = spans.new_ones(spans.shape).triu().tril(longest - 1).bool()
        score, where = spans.masked_fill(~allowed, float("-inf")).flatten().max(dim=0)
        if float(score) > best:
            tokens = divmod(int(where), high - low)
            offsets = window.encoding.offsets
            best, place = float(score), (offsets[low + tokens[0]][0], offsets[low + tokens[1]][1])
    return None if threshold is not None and none > best + threshold else place


def _windows(tokenizer: Any, question: str, context: str, settings: EvaluationSettings) -> list[Window]:
    length = max_length(tokenizer, settings)
    question = question.strip()
    half = length // 2
    asked = tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    if len(asked) > half:
        question, asked = question[: asked[half - 1][1]], asked[:half]
    room = length - len(asked) - tokenizer.num_special_tokens_to_add(pair=True)
    if room < 2:
        raise DataError(f"an input of {length} tokens has no room for a context", where=QuestionAnswering.name)
    overlap = min(int(settings.options.get("stride", _OVERLAP)), room // 2)
    return windows_of(tokenizer, question, context, length=length, overlap=overlap)


def _first_token(window: Window, tokenizer: Any) -> int:
    """Where the token stands that no answer points at: BERT's [CLS]; the first token where there is none."""
    ids = window.inputs["input_ids"]
    return ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in ids else 0


def _token_span(window: Window, place: tuple[int, int] | None, tokenizer: Any) -> tuple[int, int]:
    """First and last token of an answer's characters; the first token twice where the window does not hold all of it."""
    encoding = window.encoding
    if place is not None:
        inside = [
            position
            for position, (part, (start, end)) in enumerate(zip(encoding.sequence_ids, encoding.offsets, strict=True))
            if part == _CONTEXT and start < place[1] and end > place[0]
        ]
        if inside and encoding.offsets[inside[0]][0] <= place[0] and encoding.offsets[inside[-1]][1] >= place[1]:
            return inside[0], inside[-1]
    first = _first_token(window, tokenizer)
    return first, first
