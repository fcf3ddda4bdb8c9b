"""The page's plots, as plotly figures of plain lists.

Colours are those of the light palette; the page's script swaps them for the dark one, entry by entry. Every model has its own
symbol besides its colour.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import plotly.graph_objects as go

from leptonsdk.report import format as fmt
from leptonsdk.report.conditions import Condition, metric_bound, metric_span
from leptonsdk.report.models import MetricInfo, Models

# The same names in both; style.css holds the same ink, muted, line and bad.
LIGHT: Final[Mapping[str, str]] = {
    "ink": "#1c2024",
    "muted": "#5b626a",
    "line": "#d8dce1",
    "bad": "#b3261e",
    "baseline": "#6b7280",
    "step": "#8a5a00",
    "artifact0": "#1d5fbf",
    "artifact1": "#0f7b6c",
    "artifact2": "#a2338f",
    "artifact3": "#6a4bc4",
}
DARK: Final[Mapping[str, str]] = {
    "ink": "#e8eaed",
    "muted": "#a3abb5",
    "line": "#3a4048",
    "bad": "#ff8a80",
    "baseline": "#9aa3ae",
    "step": "#e0a84a",
    "artifact0": "#6ea8fe",
    "artifact1": "#4fc9b4",
    "artifact2": "#ee8fdc",
    "artifact3": "#b39dfa",
}
_FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
_STEP_SYMBOLS: Final = ("square-open", "pentagon-open", "hexagon-open", "hourglass-open")
_ARTIFACT_SYMBOLS: Final = ("diamond", "triangle-up", "triangle-down", "star")
_ROW: Final = 62  # pixels of a model in the bars


@dataclass(frozen=True)
class Plot:
    """A figure with its heading, and what it says for those who do not see it."""

    title: str
    note: str
    description: str
    figure: go.Figure


def looks(models: Models) -> dict[str, tuple[str, str]]:
    """Each model's colour and symbol, the same in every plot."""
    found = {models.baseline.name: (LIGHT["baseline"], "circle")}
    for number, model in enumerate(models.steps):
        found[model.name] = (LIGHT["step"], _STEP_SYMBOLS[number % len(_STEP_SYMBOLS)])
    for number, model in enumerate(models.artifacts):
        found[model.name] = (LIGHT[f"artifact{number % 4}"], _ARTIFACT_SYMBOLS[number % len(_ARTIFACT_SYMBOLS)])
    return found


def quality_plots(
    models: Models, metric: MetricInfo, conditions: Sequence[Condition], setting: tuple[int | None, int | None] | None
) -> list[Plot]:
    """A metric against size, and against latency at one shape. A plot without two models to compare is left out."""
    own = [c for c in conditions if c.metric == metric.name]
    sizes = {m.name: m.bytes for m in models.all if m.bytes is not None}
    scale = fmt.bytes_scale(*sizes.values())
    name = fmt.title(metric.label)
    plots = []
    if len(sizes) > 1:
        points = {key: value * scale.factor for key, value in sizes.items()}
        plots.append(
            _quality(models, metric, own, points, f"size on disk,{scale.suffix}", fmt.size, f"{name} and size", sizes)
        )
    times = {m.name: t.median for m in models.all if setting is not None and (t := m.timing(setting)) is not None}
    if setting is not None and len(times) > 1:
        shape = fmt.setting(*setting)
        axis = "median latency, ms"
        plots.append(_quality(models, metric, own, times, axis, fmt.duration, f"{name} and latency, {shape}", times))
    return [plot for plot in plots if len(plot.figure.data) > 1]


def _quality(
    models: Models,
    metric: MetricInfo,
    conditions: Sequence[Condition],
    points: Mapping[str, float],
    axis: str,
    show: Any,
    title: str,
    raw: Mapping[str, float],
) -> Plot:
    figure = go.Figure()
    words = []
    base = models.baseline.value(metric)
    for model in models.all:
        value = model.value(metric)
        if value is None or model.name not in points:
            continue
        colour, symbol = looks(models)[model.name]
        condition = next((c for c in conditions if c.subject == model.name), None)
        span = metric_span(condition, base) if condition is not None else None
        said = f"{metric.label} {fmt.metric(value)}" + (
            f" [{fmt.metric(span[0])}, {fmt.metric(span[1])}]" if span else ""
        )
        words.append(f"{model.name}: {show(raw[model.name])}, {said}")
        error = None
        if span is not None:
            # The interval may lie askew of the value; an end on the wrong side of it has no length.
            error = {
                "array": [max(0.0, span[1] - value)],
                "arrayminus": [max(0.0, value - span[0])],
                "symmetric": False,
                "thickness": 1.5,
                "width": 5,
            }
        figure.add_scatter(
            x=[points[model.name]],
            y=[value],
            mode="markers",
            name=html.escape(model.name),
            marker={"color": colour, "symbol": symbol, "size": 12, "line": {"width": 2, "color": colour}},
            error_y=error,
            hovertemplate=f"{html.escape(show(raw[model.name]))}<br>{html.escape(said)}",
        )
    bounds = {bound for c in conditions if (bound := metric_bound(c, base)) is not None}
    for bound in sorted(bounds):
        figure.add_hline(
            y=bound,
            line={"color": LIGHT["bad"], "width": 1.5, "dash": "dash"},
            annotation={
                "text": f"limit {fmt.metric(bound)}",
                "font": {"color": LIGHT["bad"], "size": 12},
                "xanchor": "left",
                "yanchor": "top" if metric.higher_is_better else "bottom",
            },
            annotation_position="left",
        )
    _lay_out(figure, 340)
    figure.update_layout(
        showlegend=True,
        legend={"orientation": "h", "yref": "container", "yanchor": "bottom", "y": 0, "xanchor": "left", "x": 0},
        margin={"l": 62, "r": 16, "t": 8, "b": 40},
    )
    figure.update_xaxes(title={"text": axis, "standoff": 6}, rangemode="tozero", showgrid=True)
    figure.update_yaxes(showgrid=True, nticks=6, title={"text": f"{html.escape(metric.label)} ({metric.better})"})
    return Plot(title, "", "; ".join(words), figure)


def latency_plots(models: Models) -> list[Plot]:
    """For each shape: a bar per model to its median, its quartiles, and below the bar its turns as a strip."""
    return [_latency(models, setting) for setting in models.settings]


def _latency(models: Models, setting: tuple[int | None, int | None]) -> Plot:
    figure = go.Figure()
    timed = [(model, timing) for model in models.all if (timing := model.timing(setting)) is not None]
    before = models.baseline.timing(setting)
    words = []
    longest = max(max(t.high, *t.turns, t.median) if t.turns else max(t.high, t.median) for _, t in timed)
    for row, (model, timing) in enumerate(timed):
        colour, _ = looks(models)[model.name]
        y = -float(row)
        speed = None
        if before is not None and model is not models.baseline:
            speed = fmt.compared(before.median, timing.median, "faster", "slower")
        said = fmt.duration(timing.median) + (f", {speed}" if speed else "")
        words.append(f"{model.name}: {said}, quartiles {fmt.duration(timing.low)} to {fmt.duration(timing.high)}")
        figure.add_bar(
            x=[timing.median],
            y=[y],
            orientation="h",
            width=0.3,
            marker={"color": colour},
            error_x={
                "array": [max(0.0, timing.high - timing.median)],
                "arrayminus": [max(0.0, timing.median - timing.low)],
                "symmetric": False,
                "color": LIGHT["ink"],
                "thickness": 1.5,
                "width": 5,
            },
            hovertemplate=f"{html.escape(words[-1])}<extra></extra>",
        )
        figure.add_scatter(
            x=list(timing.turns),
            y=[y - 0.26] * len(timing.turns),
            mode="markers",
            marker={"color": colour, "symbol": "line-ns", "size": 7, "line": {"width": 1.2, "color": colour}},
            opacity=0.75,
            hovertemplate=[f"turn {n}: {fmt.duration(turn)}<extra></extra>" for n, turn in enumerate(timing.turns, 1)],
        )
        figure.add_annotation(
            x=0,
            y=y + 0.32,
            xanchor="left",
            xshift=-3,
            showarrow=False,
            align="left",
            text=f"{html.escape(model.name)}: <b>{said}</b>",
            font={"size": 12, "color": LIGHT["ink"]},
        )
    _lay_out(figure, 54 + _ROW * len(timed))
    figure.update_layout(showlegend=False, margin={"l": 8, "r": 16, "t": 4, "b": 40})
    figure.update_xaxes(title={"text": "ms per call", "standoff": 6}, range=[0, longest * 1.06], showgrid=True)
    figure.update_yaxes(visible=False, range=[-len(timed) + 0.5, 0.6])
    return Plot(fmt.title(fmt.setting(*setting)), "", "; ".join(words), figure)


def _lay_out(figure: go.Figure, height: int) -> None:
    figure.update_layout(
        template=go.layout.Template(),
        height=height,
        autosize=True,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": _FONT, "size": 12, "color": LIGHT["muted"]},
        hovermode="closest",
        dragmode=False,
    )
    axis = {
        "fixedrange": True,
        "gridcolor": LIGHT["line"],
        "zeroline": False,
        "linecolor": LIGHT["muted"],
        "automargin": True,
    }
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
