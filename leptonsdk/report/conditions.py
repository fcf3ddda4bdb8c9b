"""The gate's conditions in words and numbers. Verdicts are the gate's own; nothing is judged again here.

A run keeps a *drop* (positive is worse). A reader sees the *change* of the metric instead, so that one sign means one thing on
the whole page: the drop's interval is turned round with it where higher is better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from leptonsdk.report import format as fmt
from leptonsdk.report.format import Scale
from leptonsdk.report.models import COSTS, Models

_METHODS: Final = {
    "bca": "BCa bootstrap",
    "percentile": "percentile bootstrap",
    "identical": "equal in every example",
    "tango": "Tango's score interval",
    "tang": "Tang's score interval",
    "wilson": "Wilson's score interval",
    "exact": "counted",
}
_REDUCED: Final = {"size": "smaller", "memory": "less"}


@dataclass(frozen=True)
class Condition:
    """One judged condition.

    ``value``, ``low``, ``high`` and ``limit`` are what a reader sees, unrounded; ``bad`` is the side of the limit that fails
    (``below`` or ``above``); ``neutral`` is the value that means no change, or None.
    """

    subject: str
    metric: str
    kind: str
    verdict: str
    name: str
    rule: str
    quantity: str
    value: float
    low: float
    high: float
    limit: float
    bad: Literal["below", "above"]
    neutral: float | None
    scale: Scale
    baseline: str
    candidate: str
    value_text: str
    interval_text: str
    limit_text: str
    basis: str
    detail: Mapping[str, Any]

    @property
    def is_metric(self) -> bool:
        return self.metric not in COSTS

    @property
    def estimate(self) -> str:
        """Value and interval: ``-0.0019 [-0.0057, +0.0012]``."""
        return f"{self.value_text} {self.interval_text}".strip()

    @property
    def bound(self) -> str:
        """The limit as an inequality in words."""
        return f"at {'least' if self.bad == 'below' else 'most'} {self.limit_text}"


def read_conditions(state: Mapping[str, Any], models: Models) -> list[Condition]:
    """Every condition in ``run.json``, in its order."""
    return [_read(entry, models) for entry in state.get("conditions") or ()]


def metric_span(condition: Condition, baseline: float | None) -> tuple[float, float] | None:
    """The candidate's metric's interval: the baseline plus the change's interval, a relative one scaled first."""
    if not condition.is_metric or baseline is None:
        return None
    unit = abs(baseline) if condition.detail.get("relative") else 1.0
    return baseline + condition.low * unit, baseline + condition.high * unit


def metric_bound(condition: Condition, baseline: float | None) -> float | None:
    """The metric's worst value that the limit allows."""
    if not condition.is_metric or baseline is None:
        return None
    return baseline + condition.limit * (abs(baseline) if condition.detail.get("relative") else 1.0)


def _read(entry: Mapping[str, Any], models: Models) -> Condition:
    detail = entry.get("detail") or {}
    metric, kind = str(entry["metric"]), str(entry["kind"])
    value, limit = float(entry["drop"]), float(entry["limit"])
    low, high = (float(end) for end in entry["interval"])
    info = models.metric(metric)
    is_metric = metric not in COSTS
    what = info.label if is_metric else metric
    if metric == "latency" and "batch_size" in detail:
        length = detail.get("sequence_length")
        what = f"latency at batch {detail['batch_size']}" + ("" if length is None else f" ({length} tokens)")
    bad: Literal["below", "above"] = "above"
    neutral: float | None = None
    show = fmt.metric if is_metric else fmt.duration if metric == "latency" else fmt.size

    if kind == "max_drop":
        neutral, quantity = 0.0, "change"
        scale = fmt.PERCENT if detail.get("relative") else fmt.PLAIN
        allowed = fmt.measured(limit, limit, limit, limit, scale)[2]
        of = " of the baseline's value" if detail.get("relative") else ""
        if detail.get("higher_is_better", info.higher_is_better):
            bad, rule = "below", f"drops by at most {allowed}{of}"
            value, low, high, limit = (0.0 - number for number in (value, high, low, limit))
        else:
            rule = f"rises by at most {allowed}{of}"
    elif kind in ("min_speedup", "min_reduction"):
        bad, neutral, scale = "below", 1.0, fmt.TIMES
        quantity = "speedup" if kind == "min_speedup" else "reduction"
        word = "faster" if kind == "min_speedup" else _REDUCED.get(metric, "less")
        times = fmt.measured(limit, limit, limit, limit, scale)[2]
        rule = f"at least {times} {word}" if limit > 1 else f"{quantity} of at least {times}"
        if detail.get("baseline_is") == "fp32":
            rule += " than the parameters at 4 bytes each"
    else:
        scale = (
            fmt.MILLISECONDS
            if kind == "max_ms"
            else fmt.bytes_scale(value, limit)
            if kind == "max_bytes"
            else fmt.PLAIN
        )
        quantity = "median" if kind == "max_ms" else metric if kind == "max_bytes" else kind
        rule = f"at most {fmt.measured(limit, limit, limit, limit, scale)[2]}"

    shown = fmt.measured(value, low, high, limit, scale, sign=kind == "max_drop")
    return Condition(
        subject=str(entry.get("subject") or ""),
        metric=metric,
        kind=kind,
        verdict=str(entry["verdict"]),
        name=what,
        rule=rule,
        quantity=quantity,
        value=value,
        low=low,
        high=high,
        limit=limit,
        bad=bad,
        neutral=neutral,
        scale=scale,
        baseline=show(entry.get("baseline")),
        candidate=show(entry.get("candidate")),
        value_text=shown[0],
        interval_text=shown[1],
        limit_text=shown[2],
        basis=_basis(entry, detail),
        detail=detail,
    )


def _basis(entry: Mapping[str, Any], detail: Mapping[str, Any]) -> str:
    """What the interval rests on: confidence, method, examples or turns."""
    method = str(entry.get("method") or "")
    words = [_METHODS.get(method, method)] if method else []
    if method != "exact" and (confidence := entry.get("confidence")) is not None:
        words.insert(0, f"{confidence * 100:g}% interval")
    words += [f"{detail[key]} {key}" for key in ("examples", "turns") if key in detail]
    return ", ".join(words)
