"""An interval, with the confidence and the method it rests on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from leptonsdk.errors import EvaluationError


@dataclass(frozen=True)
class Interval:
    """The values that a quantity may well have.

    Attributes:
        low: Lower end, in the quantity's unit.
        high: Upper end, not below ``low``.
        confidence: Two-sided, in (0, 1], equal tails: at 0.95, each end alone holds with 0.975.
        method: ``bca`` or ``percentile`` (bootstrap), ``identical`` (columns equal in every example), ``tango``,
            ``tang`` or ``wilson`` (score intervals of proportions), ``exact`` (nothing is estimated).
    """

    low: float
    high: float
    confidence: float
    method: str

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise EvaluationError(f"[{self.low}, {self.high}] is no interval", where=f"method {self.method}")
        if not 0 < self.confidence <= 1:
            raise EvaluationError(f"a confidence of {self.confidence} is not between 0 and 1")

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def negated(self) -> Interval:
        """The interval of the quantity with its sign turned (a drop from a change)."""
        return Interval(0.0 - self.high, 0.0 - self.low, self.confidence, self.method)


def exact(value: float) -> Interval:
    """The interval of a quantity that is counted, not estimated (bytes on disk): [value, value].

    Raises:
        EvaluationError: The value is not finite.
    """
    return Interval(float(value), float(value), 1.0, "exact")


def check_confidence(confidence: float) -> float:
    """The confidence, if an estimate can have it.

    Raises:
        EvaluationError: It is not strictly between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise EvaluationError(f"a confidence of {confidence} is not between 0 and 1", hint="0.95 is customary")
    return confidence
