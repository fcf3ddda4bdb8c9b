"""The terminal's summary: what it says, and that it fits."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from leptonsdk.report import summary

Make = Callable[..., dict[str, Any]]
INT8, FP32 = "onnxruntime-int8-dynamic", "onnxruntime-fp32"


def printed(state: dict[str, Any], width: int = 140) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(summary(state))
    return console.export_text()


def test_the_numbers_and_the_verdict(gated: dict[str, Any]) -> None:
    text = printed(gated)
    for part in ("90.9 MB", "23.0 MB", "4.0x smaller", "0.6115", "-0.0019 worse", "52.8 ms", "2.9x faster", "68.9 MB"):
        assert part in text
    assert "at least -0.02" in text
    assert "✓ Pass. 4.0x smaller" in text
    assert "All 3 conditions of the gate are met." in " ".join(text.split())


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140])
def test_it_fits(make_state: Make, conditions: dict[str, Make], width: int) -> None:
    judged = [conditions["metric"](INT8), conditions["speed"](FP32), conditions["size"](FP32)]
    text = printed(make_state(exports=(INT8, FP32), conditions=judged), width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    squeezed = "".join(text.split())
    for part in ("0.6134", "-0.0019", "fail", "3.9xsmaller"):
        assert part in squeezed


def test_at_80_columns_no_number_is_cut(make_state: Make, conditions: dict[str, Make]) -> None:
    judged = [conditions["metric"](INT8), conditions["metric"](FP32), conditions["size"](FP32)]
    text = printed(make_state(exports=(INT8, FP32), conditions=judged), 80)
    assert "…" not in text
    assert text.count("baseline") == 2  # the baseline again, beside the model that did not fit
    assert "size of onnxruntime-fp32" in text


@pytest.mark.parametrize("options", [{}, {"exports": ()}, {"exports": (), "steps": ()}])
def test_without_a_gate(make_state: Make, options: dict[str, Any]) -> None:
    text = printed(make_state(**options))
    assert "No gate" in text
    assert "verdict" not in text


def test_names_are_no_markup(make_state: Make) -> None:
    assert "[red]x[/red]" in printed(make_state(exports=("[red]x[/red]",)))


def test_a_lower_is_better_metric_is_plain_about_worse(make_state: Make, conditions: dict[str, Make]) -> None:
    text = printed(make_state(conditions=[conditions["metric"](INT8, "perplexity", None, 0.3)]))
    assert "lower is better" in text
    assert "+1.15 worse" in text
    assert "✗ Fail" in text


def test_a_terminal_without_unicode(gated: dict[str, Any]) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Console(width=100, file=file).print(summary(gated))
    file.flush()
    assert b"+ pass" in file.buffer.getvalue()  # type: ignore[attr-defined]
