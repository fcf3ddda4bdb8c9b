"""``report.html``: what it says, that it stands alone, and that nothing a user named can run in it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from leptonsdk.report import REPORT_FILE, write_report

Make = Callable[..., dict[str, Any]]
INT8, FP32 = "onnxruntime-int8-dynamic", "onnxruntime-fp32"
APART = {"small", "td", "th", "dt", "dd", "h2", "h3", "p", "li"}
VOID = {"meta", "line", "rect", "circle", "path", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """The page's visible text, its scripts by type, and its elements; refuses one that is not closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.open = "", list[str]()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert not self.open
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.text += " " if tag in APART else ""
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif not self.open or self.open[-1] != "style":
            self.text += data

    @property
    def figures(self) -> list[dict[str, Any]]:
        return [json.loads(t) for a, t in self.scripts if a.get("type") == "application/json" and "id" not in a]


def page(folder: Path, state: dict[str, Any]) -> Page:
    return Page(write_report(folder, state))


def test_it_answers_in_order(tmp_path: Path, gated: dict[str, Any]) -> None:
    text = page(tmp_path, gated).text
    parts = [
        "Pass",
        "Is it good enough?",
        "What was measured",
        "What was traded",
        "How fast",
        "What each step",
        "Recipe",
    ]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert "All 3 conditions of the gate are met." in text
    assert "Export loss, onnxruntime-int8-dynamic: outputs beside torch's: largest difference 0.0123" in text
    for fact in ("python-docstrings", "400", "ab12" * 16, "Example CPU", "2.11.0", "8.15", "onnxruntime 1.23.2 (CPU)"):
        assert fact in text
    assert "scheme: W8A16" in text
    assert "scores/baseline 4.2 s 512 MB" in text


def test_it_stands_alone(tmp_path: Path, gated: dict[str, Any]) -> None:
    read = page(tmp_path, gated)
    for tag, attributes in read.elements:
        assert tag not in {"link", "iframe", "img", "base"}
        assert not {"src", "href", "srcset", "onclick", "onload"} & attributes.keys()
    policy = next(a["content"] for t, a in read.elements if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert sum("plotly.js v" in script for _, script in read.scripts) == 1
    assert str(tmp_path) not in read.source


def test_it_is_written_whole_or_not_at_all(tmp_path: Path, gated: dict[str, Any]) -> None:
    path = write_report(tmp_path, gated)
    before = path.read_bytes()
    with pytest.raises(KeyError):
        write_report(tmp_path, {**gated, "conditions": [{"metric": "size"}]})
    assert path.name == REPORT_FILE
    assert path.read_bytes() == before
    write_report(tmp_path, gated)
    assert [p.name for p in tmp_path.iterdir()] == [REPORT_FILE]
    assert path.read_bytes() == before


EVIL = "<script>alert('x')</script>\"><img src=x onerror=alert(1)> </b>&amp;"


def test_nothing_a_user_named_can_run(tmp_path: Path, make_state: Make, conditions: dict[str, Make]) -> None:
    judged = [{**conditions["metric"](INT8), "subject": EVIL, "metric": EVIL}]
    state = make_state(exports=(EVIL,), steps=(f"01-{EVIL}",), conditions=judged, task=EVIL)
    state["model"] = {"id": EVIL, "files": {EVIL: EVIL}}
    state["data"]["label"] = state["seed"] = EVIL
    state["recipe"]["model"]["id"] = EVIL
    state["versions"][EVIL] = EVIL
    state["artifacts"][0]["runtime"] = EVIL
    state["artifacts"][0]["details"]["parity"] = {EVIL: EVIL}
    state["metrics"].append({"name": EVIL, "description": EVIL, "higher_is_better": True, "reference": False})
    for entry in (state["baseline"], *state["artifacts"]):
        entry["values"] = {**entry["values"], EVIL: 0.5}
    read = page(tmp_path, state)
    calm = page(tmp_path, make_state())
    assert not [tag for tag, _ in read.elements if tag in {"img", "b"}]
    code = [text for attributes, text in read.scripts if "type" not in attributes]
    assert code == [text for attributes, text in calm.scripts if "type" not in attributes]
    assert "alert('x')" in read.text
    names = [trace.get("name", "") for figure in read.figures for trace in figure["data"]]
    assert any("&lt;script&gt;" in name for name in names)
    assert not any("<" in name for name in names)


def test_without_a_gate(tmp_path: Path, make_state: Make) -> None:
    read = page(tmp_path, make_state())
    assert "No gate" in read.text
    assert "Is it good enough?" not in read.text
    assert re.search(
        r"4\.0x smaller, 2\.9x faster \[2\.\d+, [23]\.\d+\] at batch 32, MRR@10 changed by -0\.0019\.", read.text
    )


def test_steps_only(tmp_path: Path, make_state: Make, conditions: dict[str, Make]) -> None:
    read = page(tmp_path, make_state(exports=(), conditions=[conditions["metric"]("01-rtn")]))
    assert "3.9x smaller" in read.text
    assert "Export loss" not in read.text


def test_only_a_baseline(tmp_path: Path, make_state: Make) -> None:
    read = page(tmp_path, make_state(steps=(), exports=()))
    assert "Only the baseline was measured" in read.text
    assert "What was traded" not in read.text


def test_several_artifacts_each_with_its_verdict(tmp_path: Path, make_state: Make, conditions: dict[str, Make]) -> None:
    judged = [conditions["size"](INT8), conditions["size"](FP32)]
    read = page(tmp_path, make_state(exports=(INT8, FP32), conditions=judged))
    assert f"{INT8} (✓ pass): 4.0x smaller" in read.text
    assert f"{FP32} (✗ fail): 1.01x smaller" in read.text


def test_vision_has_no_length(tmp_path: Path, make_state: Make) -> None:
    state = make_state()
    for entry in (state["baseline"], *state["artifacts"]):
        for latency in entry["latency"]:
            latency["sequence_length"] = None
    text = page(tmp_path, state).text
    assert "Batch 32 median" in text
    assert "tokens" not in text


def test_what_was_not_measured_is_left_out(tmp_path: Path, make_state: Make) -> None:
    state = make_state()
    for entry in (state["baseline"], *state["steps"], *state["artifacts"]):
        entry["latency"] = []
        for key in ("parameters", "sparsity", "bits_per_weight", "memory_bytes"):
            entry.pop(key)
    text = page(tmp_path, state).text
    for absent in ("How fast", "Bits per weight", "Sparsity", "Peak memory added", "MRR@10 and latency"):
        assert absent not in text
    assert "MRR@10 and size" in text
    bare = {"baseline": {"name": "baseline", "values": {}}, "verdict": None}
    assert "No gate" in page(tmp_path, bare).text


def test_many_metrics(tmp_path: Path, make_state: Make) -> None:
    state = make_state()
    for entry in (state["baseline"], *state["steps"], *state["artifacts"]):
        entry["values"] = {**entry["values"], **{f"recall@{k}": k / 100 for k in range(20, 40)}}
    text = page(tmp_path, state).text
    assert all(f"Recall@{k} higher is better" in text for k in range(20, 40))


def test_the_plots_hold_the_gates_intervals(tmp_path: Path, gated: dict[str, Any]) -> None:
    figures = page(tmp_path, gated).figures
    assert len(figures) == 4  # the metric against size and latency, two shapes
    (trace,) = [trace for trace in figures[0]["data"] if trace["name"] == INT8]
    condition = gated["conditions"][0]
    low, high = (condition["baseline"] - end for end in reversed(condition["interval"]))
    assert trace["y"][0] - trace["error_y"]["arrayminus"][0] == pytest.approx(low)
    assert trace["y"][0] + trace["error_y"]["array"][0] == pytest.approx(high)
    (line,) = figures[0]["layout"]["shapes"]
    assert line["y0"] == pytest.approx(condition["baseline"] - 0.02)
    symbols = [trace["marker"]["symbol"] for trace in figures[0]["data"]]
    assert len(set(symbols)) == len(symbols)


def test_every_colour_of_the_plots_has_a_dark_one(tmp_path: Path, gated: dict[str, Any]) -> None:
    read = page(tmp_path, gated)
    (palette,) = [json.loads(text) for attributes, text in read.scripts if attributes.get("id") == "palette"]
    used = set(re.findall(r"#[0-9a-f]{6}", json.dumps(read.figures)))
    assert used <= palette.keys()


def test_the_room_is_light() -> None:
    code = (
        "import sys; from leptonsdk.report import summary, write_report; "
        "print({'plotly', 'jinja2', 'rich', 'torch'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
