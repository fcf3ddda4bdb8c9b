"""Means of loss terms between two lines of a log."""

from __future__ import annotations

from collections import defaultdict

from torch import Tensor


class Mean:
    """Means of a compressor's loss terms since they were last asked for: for `TrainingCompressor.logs`."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = defaultdict(int)

    def add(self, name: str, value: Tensor) -> None:
        value = value.detach()
        self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._counts[name] += 1

    def take(self) -> dict[str, float]:
        found = {name: float(value) / self._counts[name] for name, value in self._sums.items()}
        self._sums.clear()
        self._counts.clear()
        return found
