"""Answers against SQuAD's rules and a plain search over every span of every window."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset

import leptonsdk as lepton
from leptonsdk.errors import DataError
from leptonsdk.evaluation.answers import exact_match, f1, normalized
from leptonsdk.evaluation.subjects import open_subject
from leptonsdk.evaluation.tasks.question_answering import QuestionAnswering, accepted, place_of
from leptonsdk.hooks import EvaluationSettings, load_plugins

PLUGINS = load_plugins()
LONG = "river of a city is in the tower . " * 8
ROWS = [
    {
        "question": "what is the capital ?",
        "context": "Paris is the capital of France .",
        "answers": {"text": ["Paris"], "answer_start": [0]},
    },
    {
        "question": "who wrote the first program ?",
        "context": "In 1843 the first program was written by Ada Lovelace .",
        "answers": {"text": ["Ada Lovelace", "Lovelace"], "answer_start": [41, 45]},
    },
    {
        "question": "where is the Nile ?",
        "context": f"{LONG}the Nile is in Africa . {LONG}",
        "answers": {"text": ["in Africa", "Africa"], "answer_start": [len(LONG) + 12, len(LONG) + 15]},
    },
]
NONE = {"question": "who is the river ?", "context": LONG, "answers": {"text": [], "answer_start": []}}


def test_answers_are_compared_by_squads_rules() -> None:
    assert normalized(" The  U.S.A., an   Example!") == "usa example"
    assert normalized("theatre") == "theatre"
    assert [exact_match("the Normans.", answers) for answers in (["Normans"], ["Norman", "NORMANS"], ["Norman"])] == [
        1,
        1,
        0,
    ]
    assert f1("in the 10th century", ["10th century"]) == pytest.approx(2 * (2 / 3) * 1 / (2 / 3 + 1))
    assert f1("10th", ["the 10th century", "9th"]) == pytest.approx(2 / 3)
    assert f1("a a b b", ["b b b"]) == pytest.approx(
        4 / 5
    )  # "a" is an article; repeated words count as often as they stand
    assert (f1("", []), exact_match("", [])) == (1.0, 1)
    assert (f1("x", []), exact_match("x", []), f1("", ["x"]), exact_match("", ["x"])) == (0.0, 0, 0.0, 0)
    assert f1("the", ["The", "x"]) == 0  # an accepted answer without a word left is none, where there is another


def plain_answer(folder: Path, row: dict[str, Any], null: bool) -> str:
    """Every window by itself, every span in a loop."""
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForQuestionAnswering.from_pretrained(folder)
    length = tokenizer.model_max_length
    room = length - 3 - len(tokenizer(row["question"], add_special_tokens=False)["input_ids"])
    encoded = tokenizer(
        row["question"], row["context"], truncation="only_second", max_length=length, stride=min(128, room // 2),
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip
    best, none = (-1e9, ""), 1e9
    for window in range(len(encoded["input_ids"])):
        inputs = {
            name: torch.tensor([encoded[name][window]]) for name in ("input_ids", "token_type_ids", "attention_mask")
        }
        with torch.no_grad():
            outputs = model.eval()(**inputs)
        start, end = outputs.start_logits[0].tolist(), outputs.end_logits[0].tolist()
        none = min(none, start[0] + end[0])
        parts, offsets = encoded.sequence_ids(window), encoded["offset_mapping"][window]
        for i in range(len(start)):
            for j in range(i, min(i + 30, len(start))):
                if parts[i] == parts[j] == 1 and start[i] + end[j] > best[0]:
                    best = start[i] + end[j], row["context"][offsets[i][0] : offsets[j][1]]
    return "" if null and none > best[0] else best[1]


@pytest.mark.parametrize("rows", [ROWS, [*ROWS, NONE]], ids=["squad", "squad_v2"])
def test_a_random_model_equals_the_plain_search(reader: Path, rows: list[dict[str, Any]]) -> None:
    given = [plain_answer(reader, row, NONE in rows) for row in rows]
    # The model's own answers made some of the accepted ones: else nearly all would be wrong, and agree in that.
    changed = [
        {**row, "answers": {"text": [*row["answers"]["text"], text]}} for row, text in zip(rows, given, strict=True)
    ]
    some = [*changed[:2], *rows[2:]]
    scores = lepton.evaluate(reader, some, batch_size=2)
    expected = [accepted(row["answers"]) for row in some]
    assert scores.columns["exact_match"].tolist() == [exact_match(*p) for p in zip(given, expected, strict=True)]
    assert scores.columns["f1"].tolist() == [f1(*p) for p in zip(given, expected, strict=True)]
    assert scores.columns["exact_match"][:2].tolist() == [int(text != "") for text in given[:2]]
    assert any(given)
    backward = lepton.evaluate(reader, some[::-1], batch_size=3)
    assert backward.columns["f1"].tolist() == scores.columns["f1"].tolist()[::-1]


class Oracle:
    """A runner that finds the tokens of some answers, and points at the first token where it finds none."""

    runtime, input_names = "oracle", frozenset({"input_ids"})

    def __init__(self, tokenizer: Any, answers: list[str]) -> None:
        self.wanted = [tokenizer.encode(answer, add_special_tokens=False) for answer in answers]

    def __call__(self, **inputs: torch.Tensor) -> Any:
        ids = inputs["input_ids"]
        start, end = torch.zeros(ids.shape), torch.zeros(ids.shape)
        for row, tokens in enumerate(ids.tolist()):
            for wanted in self.wanted:
                for place in range(len(tokens)):
                    if tokens[place : place + len(wanted)] == wanted:
                        start[row, place], end[row, place + len(wanted) - 1] = 9, 9
            if not start[row].any():
                start[row, 0] = end[row, 0] = 5
        return SimpleNamespace(start_logits=start, end_logits=end)


@pytest.mark.parametrize("size", [1, 2, 32])
def test_a_perfect_model_scores_1(reader: Path, size: int) -> None:
    tokenizer = open_subject(lepton.load_model(reader), PLUGINS).processor
    rows = [*ROWS, NONE]
    oracle = Oracle(tokenizer, ["Paris", "Ada Lovelace", "in Africa"])
    settings = EvaluationSettings(batch_size=size)
    columns = QuestionAnswering().evaluate(oracle, tokenizer, Dataset.from_list(rows), settings)
    assert columns["exact_match"].tolist() == [1, 1, 1, 1]
    assert columns["f1"].tolist() == [1, 1, 1, 1]
    careless = EvaluationSettings(batch_size=size, options={"null_threshold": 100.0})
    assert QuestionAnswering().evaluate(oracle, tokenizer, Dataset.from_list(rows), careless)["f1"][3] == 0
    never_none = Oracle(
        tokenizer, ["nothing of that"]
    )  # where every question has an answer, a span is given: the first
    columns = QuestionAnswering().evaluate(never_none, tokenizer, Dataset.from_list(ROWS), settings)
    assert columns["f1"].tolist() == [1, 0, 0]


@pytest.mark.parametrize("side", ["right", "left"])
def test_training_labels_point_at_the_answer_in_the_windows_that_hold_it(reader: Path, side: str) -> None:
    subject = open_subject(lepton.load_model(reader), PLUGINS)
    tokenizer, settings = subject.processor, EvaluationSettings(options=subject.options)
    tokenizer.padding_side = side
    rows = Dataset.from_list([*ROWS, NONE])
    batch = QuestionAnswering().training_batch(tokenizer, rows[:], settings)
    said = [
        tokenizer.decode(ids[start : end + 1])
        for ids, start, end in zip(batch["input_ids"], batch["start_positions"], batch["end_positions"], strict=True)
    ]
    assert said[:2] == ["Paris", "Ada Lovelace"]
    assert 1 <= said.count("in Africa") <= 2
    assert said.count("[CLS]") == len(said) - 2 - said.count("in Africa") > 5
    assert torch.isfinite(subject.runner.model(**batch).loss)
    first = QuestionAnswering().encode(tokenizer, rows[:], settings)
    assert first["input_ids"].shape[0] == len(rows)
    assert set(first) == {"input_ids", "token_type_ids", "attention_mask"}


def test_every_form_of_answers_is_read() -> None:
    context = "to be or not to be"
    forms: list[tuple[Any, list[str], tuple[int, int] | None]] = [
        ({"text": ["be"], "answer_start": [16]}, ["be"], (16, 18)),
        ([{"text": "be", "answer_start": 16}], ["be"], (16, 18)),
        ({"text": ["be"], "answer_start": [4]}, ["be"], (3, 5)),  # a place where it does not stand
        ("not", ["not"], (9, 12)),
        (["or", "not"], ["or", "not"], (6, 8)),
        ({"text": [], "answer_start": []}, [], None),
        (None, [], None),
    ]
    for answers, texts, place in forms:
        assert (accepted(answers), place_of(answers, context, "here")) == (texts, place)
    with pytest.raises(DataError, match="an answer does not stand in its context: 'question'"):
        place_of("question", context, "here")


def test_wrong_rows_are_named(reader: Path) -> None:
    with pytest.raises(DataError, match="the answers of row 0 are not understood.*answer_start"):
        lepton.evaluate(reader, [{"question": "a", "context": "b", "answers": 3}])
    with pytest.raises(DataError, match="the context of row 0 is no text"):
        lepton.evaluate(reader, [{"question": "a", "context": None, "answers": ["b"]}])
    with pytest.raises(DataError, match="it needs the columns {answers, context, question}"):
        lepton.evaluate(reader, [{"question": "a", "context": "b"}])
    with pytest.raises(DataError, match="an input of 6 tokens has no room for a context"):
        lepton.evaluate(reader, [ROWS[0]], max_length=6)


def test_a_question_longer_than_the_input_is_cut(reader: Path) -> None:
    row = {**ROWS[0], "question": "what is the capital " * 40}
    assert len(lepton.evaluate(reader, [row]).ids) == 1


def test_a_gate_gives_intervals(reader: Path) -> None:
    rows = [{**row, "question": f"{row['question']} {n}"} for n in range(12) for row in ROWS]
    model = lepton.load_model(reader)
    baseline = lepton.evaluate(model, rows)
    with torch.no_grad():
        model.model.qa_outputs.weight.mul_(-1)
    result = lepton.gate(
        baseline, lepton.evaluate(model, rows), {"exact_match": {"max_drop": 0.5}, "f1": {"max_drop": 0.5}}
    )
    assert [condition.interval.method for condition in result.conditions] == ["tango", "bca"]
