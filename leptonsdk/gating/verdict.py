"""Verdicts: what an interval says about a limit, and what many conditions say together.

Nothing is rounded before it is compared, and nothing is tolerated: 0.945 does not pass a floor of 0.95.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np

from leptonsdk.errors import EvaluationError
from leptonsdk.gating.intervals import Interval

Verdict = Literal["pass", "fail", "inconclusive"]

EXIT_CODES: Final[Mapping[Verdict, int]] = {"pass": 0, "fail": 1, "inconclusive": 3}


@dataclass(frozen=True)
class ConditionResult:
    """One condition of the gate, judged.

    Attributes:
        metric: What was measured (``accuracy``, ``latency``, ``size``, ``memory``).
        baseline: The baseline's value, or None where the condition knows none.
        candidate: The candidate's value.
        drop: The quantity that is judged, which ``interval`` holds and ``limit`` bounds: how much worse the metric got
            (positive is worse, whichever its direction), or a ratio (``min_speedup``, ``min_reduction``), or the
            candidate's value itself (``max_ms``, ``max_bytes``).
        interval: Of that quantity, in its unit.
        limit: In the same unit.
        kind: The limit's key in a recipe.
        verdict: What the interval says about the limit.
        subject: Which artifact or step is judged, for people.
        detail: More for the report, JSON-ready once numpy's scalars are unwrapped.
    """

    metric: str
    baseline: float | None
    candidate: float | None
    drop: float
    interval: Interval
    limit: float
    kind: str
    verdict: Verdict
    subject: str = ""
    detail: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As ``run.json`` keeps it; ``detail`` stays a dictionary of its own."""
        return {
            "subject": self.subject,
            "metric": self.metric,
            "kind": self.kind,
            "baseline": self.baseline,
            "candidate": self.candidate,
            "drop": self.drop,
            "interval": [self.interval.low, self.interval.high],
            "confidence": self.interval.confidence,
            "method": self.interval.method,
            "limit": self.limit,
            "verdict": self.verdict,
            "detail": _plain(self.detail),
        }


def judge_upper(interval: Interval, limit: float) -> Verdict:
    """Whether a quantity is at most a limit: pass if all of its interval is, fail if none of it is.

    Raises:
        EvaluationError: The limit is not finite.
    """
    _check_limit(limit)
    if interval.high <= limit:
        return "pass"
    return "fail" if interval.low > limit else "inconclusive"


def judge_lower(interval: Interval, limit: float) -> Verdict:
    """Whether a quantity is at least a limit: pass if all of its interval is, fail if none of it is.

    Raises:
        EvaluationError: The limit is not finite.
    """
    _check_limit(limit)
    if interval.low >= limit:
        return "pass"
    return "fail" if interval.high < limit else "inconclusive"


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """Fail if any failed, else inconclusive if any is, else pass.

    Raises:
        EvaluationError: There is none: a gate without conditions proves nothing.
    """
    given = set(verdicts)
    if not given:
        raise EvaluationError("the gate has no conditions, so it proves nothing", hint="state at least one limit")
    if unknown := given - set(EXIT_CODES):
        raise EvaluationError(f"no verdict is called {', '.join(sorted(map(str, unknown)))}")
    for verdict in ("fail", "inconclusive"):
        if verdict in given:
            return verdict
    return "pass"


def _check_limit(limit: float) -> None:
    if not math.isfinite(limit):
        raise EvaluationError(f"a limit of {limit} limits nothing")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value.item() if isinstance(value, np.generic) else value
