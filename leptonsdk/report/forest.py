"""Interval plots of the gate's conditions: geometry only, as shares of the width; the template draws them as SVG."""

from __future__ import annotations

from dataclasses import dataclass

from leptonsdk.report.conditions import Condition

_MARGIN = 0.08


@dataclass(frozen=True)
class Forest:
    """Where things stand on a strip of width 100. ``bad_from`` and ``bad_width`` are the part past the limit."""

    value: float
    low: float
    high: float
    limit: float
    bad_from: float
    bad_width: float
    neutral: float | None
    counted: bool
    description: str


def forest(condition: Condition) -> Forest:
    """The strip of one condition. It shows the interval, the limit, and no change where that has a meaning."""
    marks = [condition.low, condition.high, condition.value, condition.limit]
    if condition.neutral is not None:
        marks.append(condition.neutral)
    least, most = min(marks), max(marks)
    span = (most - least) or abs(most) or 1.0
    least, most = least - _MARGIN * span, most + _MARGIN * span

    def at(number: float) -> float:
        return round(100 * (number - least) / (most - least), 3)

    limit = at(condition.limit)
    below = condition.bad == "below"
    return Forest(
        value=at(condition.value),
        low=at(condition.low),
        high=at(condition.high),
        limit=limit,
        bad_from=0.0 if below else limit,
        bad_width=limit if below else round(100 - limit, 3),
        neutral=None if condition.neutral is None else at(condition.neutral),
        counted=condition.low == condition.high,
        description=(
            f"{condition.name}: {condition.quantity} {condition.estimate}, must be {condition.bound}: {condition.verdict}"
        ),
    )
