"""Entities and words against seqeval and a plain loop."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value

import leptonsdk as lepton
from leptonsdk.errors import DataError, EvaluationError
from leptonsdk.evaluation.subjects import open_subject
from leptonsdk.evaluation.tasks.token_classification import (
    TokenClassification,
    count_entities,
    entity_names,
    first_pieces,
)
from leptonsdk.gating import get_statistic
from leptonsdk.hooks import EvaluationSettings, load_plugins

PLUGINS = load_plugins()
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
ROWS = [
    {"tokens": ["Ada", "Lovelace", "wrote", "the", "first", "program"], "ner_tags": [1, 2, 0, 0, 0, 0]},
    {"tokens": ["The", "Nile", "is", "a", "river"], "ner_tags": [0, 3, 0, 0, 0]},
    {"tokens": ["Grace", "Hopper", "lived", "in", "New", "York", "City", "."], "ner_tags": [1, 2, 0, 0, 3, 4, 4, 0]},
    {"tokens": ["rivers", "run"], "ner_tags": [0, 0]},
    {"tokens": ["London", "Paris"], "ner_tags": [3, 3]},
]


@pytest.fixture(scope="module")
def long_rows() -> list[dict[str, Any]]:
    draw = random.Random(1)
    words = [word for row in ROWS for word in row["tokens"]]
    return [
        {"tokens": draw.choices(words, k=k), "ner_tags": [draw.randrange(5) for _ in range(k)]} for k in (40, 3, 25, 60)
    ]


def test_short_sentences_equal_a_plain_loop_and_seqeval(tagger: Path) -> None:
    from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    scores = lepton.evaluate(tagger, ROWS, batch_size=2)
    tokenizer, model = AutoTokenizer.from_pretrained(tagger), AutoModelForTokenClassification.from_pretrained(tagger)
    predicted = []
    for row in ROWS:
        encoded = tokenizer(row["tokens"], is_split_into_words=True, return_tensors="pt")
        with torch.no_grad():
            classes = model.eval()(**encoded).logits[0].argmax(-1).tolist()
        words = encoded.word_ids(0)
        predicted.append([TAGS[classes[words.index(number)]] for number in range(len(row["tokens"]))])
    true = [[TAGS[tag] for tag in row["ner_tags"]] for row in ROWS]
    assert scores.task == "token-classification"
    assert scores.value("f1") == pytest.approx(f1_score(true, predicted))
    assert scores.value("precision") == pytest.approx(precision_score(true, predicted))
    assert scores.value("recall") == pytest.approx(recall_score(true, predicted))
    assert scores.value("accuracy") == pytest.approx(accuracy_score(true, predicted))


@pytest.mark.parametrize("seed", range(20))
def test_counts_make_seqevals_corpus_values_also_of_resamples(seed: int) -> None:
    from seqeval.metrics import f1_score, precision_score, recall_score

    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 12, size=12)
    true = [rng.integers(0, 5, size=n).tolist() for n in lengths]
    guess = [[t if rng.random() < 0.7 else int(rng.integers(0, 5)) for t in tags] for tags in true]
    columns = count_entities(zip(true, guess, strict=True), dict(enumerate(TAGS)))
    right, predicted, expected = columns.values()
    drawn = rng.multinomial(12, np.full(12, 1 / 12), size=1)
    for counts in (np.ones((1, 12), dtype=np.int64), drawn):
        order = np.repeat(np.arange(12), counts[0])
        sides = [[[TAGS[t] for t in rows[i]] for i in order] for rows in (true, guess)]
        assert get_statistic("f1_counts").resampled([right, predicted, expected], counts)[0] == pytest.approx(
            f1_score(*sides, zero_division=0)
        )
        for metric, whole in ((precision_score, predicted), (recall_score, expected)):
            value = get_statistic("share").resampled([right, whole], counts)[0]
            assert value == pytest.approx(metric(*sides, zero_division=0))


class Oracle:
    """A runner that knows each first piece's class, and is wrong about all later pieces."""

    runtime, input_names = "oracle", frozenset({"input_ids"})

    def __init__(self, tokenizer: Any) -> None:
        later = {number for token, number in tokenizer.get_vocab().items() if token.startswith("##")}
        self.classes = torch.tensor([0 if n in later else n % 5 for n in range(len(tokenizer))])

    def __call__(self, **inputs: torch.Tensor) -> Any:
        return SimpleNamespace(logits=torch.nn.functional.one_hot(self.classes[inputs["input_ids"]], 5).float())


def test_a_perfect_model_scores_1_in_windows_and_any_batch(tagger: Path, long_rows: list[dict[str, Any]]) -> None:
    subject = open_subject(lepton.load_model(tagger), PLUGINS)
    tokenizer, runner = subject.processor, Oracle(subject.processor)
    rows = []
    for row in [*ROWS, *long_rows]:
        pieces = [tokenizer.encode(word, add_special_tokens=False)[0] for word in row["tokens"]]
        rows.append({"tokens": row["tokens"], "tags": [int(runner.classes[piece]) for piece in pieces]})
    assert len(tokenizer(rows[-1]["tokens"], is_split_into_words=True)["input_ids"]) > 2 * 48
    subject = open_subject(lepton.load_model(tagger), PLUGINS)
    for size in (1, 4, 32):
        settings = EvaluationSettings(batch_size=size, options=subject.options)
        columns = TokenClassification().evaluate(runner, tokenizer, Dataset.from_list(rows), settings)
        assert (columns["words_right"] == columns["words"]).all()
        assert columns["words"].tolist() == [len(row["tokens"]) for row in rows]
        assert (columns["entities_right"] == columns["entities_true"]).all()
        assert (columns["entities_right"] == columns["entities_predicted"]).all()
    assert columns["entities_true"].sum() > 20


def test_the_order_of_rows_does_not_matter(tagger: Path, long_rows: list[dict[str, Any]]) -> None:
    rows = [*ROWS, *long_rows]
    forward, backward = (lepton.evaluate(tagger, order, batch_size=3) for order in (rows, rows[::-1]))
    for name, column in forward.columns.items():
        assert column.tolist() == backward.columns[name][::-1].tolist(), name


def test_labels_stand_at_first_pieces(tagger: Path) -> None:
    subject = open_subject(lepton.load_model(tagger), PLUGINS)
    settings = EvaluationSettings(options=subject.options)
    rows = Dataset.from_list(ROWS).rename_column("ner_tags", "tags")
    batch = TokenClassification().training_batch(subject.processor, rows[:], settings)
    encoded = subject.processor(rows["tokens"][:], is_split_into_words=True, padding=True)
    for row, tags in enumerate(rows["tags"]):
        labels = batch["labels"][row].tolist()
        positions = [position for position, _ in first_pieces(encoded.word_ids(row))]
        assert [labels[position] for position in positions] == tags
        assert {label for position, label in enumerate(labels) if position not in positions} == {-100}
    assert torch.isfinite(subject.runner.model(**batch).loss)
    assert "labels" not in TokenClassification().encode(subject.processor, rows[:], settings)


def test_the_datas_own_numbers_are_read_by_their_names(tagger: Path) -> None:
    """The same tags as the model's numbers, as names, and as a ClassLabel that numbers them otherwise."""
    numbers = lepton.evaluate(tagger, ROWS)
    named = lepton.evaluate(tagger, [{**row, "ner_tags": [TAGS[tag] for tag in row["ner_tags"]]} for row in ROWS])
    other = TAGS[::-1]
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=other))})
    rows = [{**row, "ner_tags": [other.index(TAGS[tag]) for tag in row["ner_tags"]]} for row in ROWS]
    classes = lepton.evaluate(tagger, Dataset.from_list(rows, features=features))
    assert numbers.values() == named.values() == classes.values()


def test_tags_that_mark_no_entities_have_an_accuracy_only(tagger: Path) -> None:
    assert entity_names({"NOUN": 0, "VERB": 1}, None) is None
    assert entity_names({"LABEL_0": 0, "LABEL_1": 1}, None) is None
    assert entity_names({"LABEL_0": 0, "LABEL_1": 1}, ["O", "B-X"]) == {0: "O", 1: "B-X"}
    model = lepton.load_model(tagger)
    model.model.config.label2id = {"NOUN": 0, "VERB": 1, "ADJ": 2, "ADP": 3, "X": 4}
    assert set(lepton.evaluate(model, ROWS).values()) == {"accuracy"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "b"], "tags": [0]}, "row 0 has 2 tokens and 1 tags"),
        ({"tokens": ["a"], "tags": [9]}, "labels unknown to the model: 9"),
        ({"tokens": ["a"], "tags": ["B-ORG"]}, "labels unknown to the model: B-ORG.*B-PER"),
        ({"tokens": ["a"], "tags": [-1]}, "a tag of row 0 is negative"),
        ({"tokens": "a b", "tags": [0, 0]}, "tokens of row 0 is a text, not a list"),
    ],
)
def test_wrong_rows_are_named(tagger: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        lepton.evaluate(tagger, [row])


def test_seqeval_missing_says_how_to_get_it(tagger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "seqeval", None)
    with pytest.raises(EvaluationError, match=r"seqeval is not installed.*pip install 'leptonsdk\[text\]'"):
        lepton.evaluate(tagger, ROWS)


def test_a_gate_gives_an_interval(tagger: Path, long_rows: list[dict[str, Any]]) -> None:
    rows = [*ROWS, *long_rows] * 2
    model = lepton.load_model(tagger)
    baseline = lepton.evaluate(model, rows)
    with torch.no_grad():
        model.model.classifier.weight.mul_(-1)
    result = lepton.gate(
        baseline, lepton.evaluate(model, rows), {"f1": {"max_drop": 0.05}, "accuracy": {"max_drop": 1}}
    )
    f1, accuracy = result.conditions
    assert (f1.metric, f1.interval.method) == ("f1", "bca")
    assert f1.interval.low <= f1.drop <= f1.interval.high
    assert f1.interval.low < f1.interval.high
    assert accuracy.verdict == "pass"
