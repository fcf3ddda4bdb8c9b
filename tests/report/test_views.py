"""``run.json`` as rows and sentences: conditions, models, the headline, the tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from leptonsdk.report.conditions import Condition, metric_bound, metric_span, read_conditions
from leptonsdk.report.forest import forest
from leptonsdk.report.models import primary_metrics, public, read_models
from leptonsdk.report.tables import export_losses, ledger_rows, model_groups
from leptonsdk.report.words import Headline, headline

Make = Callable[..., dict[str, Any]]
INT8, FP32 = "onnxruntime-int8-dynamic", "onnxruntime-fp32"


def read(state: dict[str, Any]) -> list[Condition]:
    return read_conditions(state, read_models(state))


def told(state: dict[str, Any]) -> Headline:
    models = read_models(state)
    return headline(state, models, read_conditions(state, models), primary_metrics(state, models))


def test_a_drop_is_shown_as_a_change(make_state: Make, conditions: dict[str, Make]) -> None:
    raw = conditions["metric"](INT8)
    (shown,) = read(make_state(conditions=[raw]))
    assert shown.value == -raw["drop"] == pytest.approx(-0.0019)
    assert (shown.low, shown.high) == (-raw["interval"][1], -raw["interval"][0])
    assert (shown.limit, shown.bad, shown.rule) == (-0.02, "below", "drops by at most 0.02")


def test_a_lower_is_better_metric_rises(make_state: Make, conditions: dict[str, Make]) -> None:
    raw = conditions["metric"](INT8, "perplexity", None, 2.0)
    (shown,) = read(make_state(conditions=[raw]))
    assert shown.value == raw["drop"] == pytest.approx(1.149)
    assert (shown.limit, shown.bad, shown.rule) == (2.0, "above", "rises by at most 2")
    assert metric_bound(shown, 23.451) == pytest.approx(25.451)


def test_a_relative_drop_is_in_per_cent_and_its_span_in_the_metrics_unit(
    make_state: Make, conditions: dict[str, Make]
) -> None:
    raw = conditions["metric"](INT8, "mrr@10", 0.01, 0.05, relative=True)
    (shown,) = read(make_state(conditions=[raw]))
    assert shown.value_text.endswith("%")
    assert shown.rule == "drops by at most 5% of the baseline's value"
    low, high = metric_span(shown, 0.6134) or (0.0, 0.0)
    assert low < 0.6034 < high
    assert metric_bound(shown, 0.6134) == pytest.approx(0.6134 * 0.95)


def test_the_headline_in_one_sentence(gated: dict[str, Any]) -> None:
    head = told(gated)
    assert (head.verdict, head.title) == ("pass", "Pass")
    ((model, verdict, sentence),) = head.sentences
    assert (model, verdict) == (INT8, "pass")
    assert sentence.startswith("4.0x smaller, 2.8")
    assert "x faster at batch 32, MRR@10 changed by -0.0019 [" in sentence
    assert sentence.endswith("(limit -0.02).")
    assert head.meaning == "All 3 conditions of the gate are met."


def test_no_change_is_called_unchanged(make_state: Make, conditions: dict[str, Make]) -> None:
    raw = {**conditions["metric"](INT8), "drop": 0.0}
    assert "MRR@10 unchanged [-0.0049, +0.0010] (limit -0.02)" in told(make_state(conditions=[raw])).sentences[0][2]


def test_a_speedup_that_its_turns_do_not_show_is_not_told(make_state: Make) -> None:
    state = make_state()
    for subject in (state["baseline"], *state["artifacts"]):
        for timing in subject["latency"]:
            timing["turns_ms"] = (
                [1.0, 500.0, 2.0, 480.0, 1.5, 510.0, 1.0] if subject is state["baseline"] else [1.5] * 7
            )
    (sentence,) = (sentence for *_, sentence in told(state).sentences)
    assert "as fast as before, as far as its turns can tell at batch 32" in sentence
    assert "faster" not in sentence


def test_a_speedup_below_one_is_not_called_faster(make_state: Make, conditions: dict[str, Make]) -> None:
    (shown,) = read(make_state(conditions=[conditions["speed"](INT8, 0.5)]))
    assert shown.rule == "speedup of at least 0.5x"


def test_what_failed_is_named_with_its_model(make_state: Make, conditions: dict[str, Make]) -> None:
    judged = [conditions["metric"](INT8), conditions["metric"](FP32), conditions["size"](FP32, 3.5)]
    head = told(make_state(exports=(INT8, FP32), conditions=judged))
    assert head.verdict == "fail"
    assert head.meaning == "Not met: size of onnxruntime-fp32. 2 of 3 conditions are met."
    assert [verdict for _, verdict, _ in head.sentences] == ["pass", "fail"]


def test_inconclusive_says_what_would_help(make_state: Make, conditions: dict[str, Make]) -> None:
    head = told(make_state(conditions=[conditions["metric"](INT8, limit=0.0015)]))
    assert head.verdict == "inconclusive"
    assert "more examples" in head.meaning


def test_a_speedup_that_misses_its_limit_is_not_rounded_onto_it(make_state: Make, conditions: dict[str, Make]) -> None:
    raw = conditions["size"](INT8, 3.96)
    assert raw["verdict"] == "fail"
    state = make_state(conditions=[raw])
    assert told(state).sentences[0][2].startswith("3.95x smaller")
    assert read(state)[0].value_text == "3.95x"  # not 4.0x


def test_size_beside_fp32_is_said_to_be(make_state: Make, conditions: dict[str, Make]) -> None:
    (shown,) = read(make_state(conditions=[conditions["size"](INT8, 3.5, "fp32")]))
    assert shown.rule == "at least 3.5x smaller than the parameters at 4 bytes each"


def test_a_limit_in_bytes_and_one_in_milliseconds(make_state: Make) -> None:
    common = {"subject": INT8, "confidence": 0.95, "method": "exact", "verdict": "pass", "baseline": None}
    most = {
        "metric": "size",
        "kind": "max_bytes",
        "drop": 22e6,
        "candidate": 22e6,
        "interval": [22e6] * 2,
        "limit": 3e7,
    }
    slow = {
        "metric": "latency",
        "kind": "max_ms",
        "drop": 51.3,
        "candidate": 51.3,
        "interval": [50.2, 52.0],
        "limit": 60,
    }
    detail = {"batch_size": 32, "sequence_length": None, "turns": 15}
    size, latency = read(
        make_state(conditions=[{**common, **most, "detail": {}}, {**common, **slow, "detail": detail}])
    )
    assert (size.value_text, size.limit_text, size.baseline) == ("22.0 MB", "30 MB", "-")
    assert (latency.name, latency.rule) == ("latency at batch 32", "at most 60 ms")


@pytest.mark.parametrize("name", ["mrr@10", "perplexity"])
def test_the_forest_puts_the_bad_side_past_the_limit(make_state: Make, conditions: dict[str, Make], name: str) -> None:
    raw = conditions["metric"](INT8, name, None, 0.02 if name == "mrr@10" else 2.0)
    (shown,) = read(make_state(conditions=[raw]))
    strip = forest(shown)
    past = strip.bad_from <= strip.value <= strip.bad_from + strip.bad_width
    assert raw["verdict"] == "pass"
    assert not past
    assert 0 <= strip.low < strip.value < strip.high <= 100


def test_the_baselines_distance_to_itself_is_zero(make_state: Make) -> None:
    models = read_models(make_state())
    (row,) = [row for group in model_groups(models) for row in group.rows if row.head == "KL"]
    assert [cell.text for cell in row.cells] == ["0", "0.0312", "0.0401"]
    assert row.cells[0].note == "by definition"
    assert row.cells[1].note == "+0.0312, worse"
    assert (row.hint, row.cells[1].tone) == ("lower is better", "worse")


def test_the_ledger_compares_an_export_with_the_last_checkpoint(make_state: Make) -> None:
    state = make_state(exports=(INT8, FP32))
    rows = {row.name: row for row in ledger_rows(state, read_models(state))}
    assert rows["01-rtn"].size.note == "3.9x smaller"
    assert rows[FP32].size.note == "3.9x larger"
    assert rows[FP32].metrics[0].note == "unchanged"
    assert rows["01-rtn"].metrics[-1].note == "+0.0312, worse"


def test_the_exports_own_loss(make_state: Make) -> None:
    state = make_state()
    (loss,) = export_losses(state, read_models(state))
    assert ("largest difference", "0.0123") in loss.parity
    assert ("cosine", "0.99941") in loss.parity
    assert loss.parity[-1] == ("allowed relative RMS", "0.25")
    assert "MRR@10 -0.0006 worse" in loss.metrics
    del state["artifacts"][0]["details"]["parity"]
    assert export_losses(state, read_models(state))[0].parity == ()
    state["artifacts"][0]["details"]["parity"] = {"logits": {"max_abs_diff": 0.5, "equal": False}, "note": "by hand"}
    (loss,) = export_losses(state, read_models(state))
    assert loss.parity == (("logits largest difference", "0.5"), ("logits equal", "no"), ("note", "by hand"))


def test_absolute_paths_are_shortened() -> None:
    assert public({"a": ["/home/someone/teacher", "org/name"], "b": "C:\\models\\x", "c": 3}) == {
        "a": ["teacher", "org/name"],
        "b": "x",
        "c": 3,
    }
