"""How a layer's input becomes integers. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from leptonsdk.errors import UsageError

NUM_BITS = 8
LOWEST, HIGHEST = -(1 << NUM_BITS - 1), (1 << NUM_BITS - 1) - 1


@dataclass(frozen=True)
class InputScale:
    """One scale for a linear layer's whole input: ``x ≈ (q - zero_point) * scale`` with ``q`` from -128 to 127.

    Attributes:
        scale: Above 0.
        zero_point: The integer that stands for 0, from -128 to 127.

    Raises:
        UsageError: They are out of range.
    """

    scale: float
    zero_point: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.scale < float("inf"):
            raise UsageError(f"an input's scale must be above 0 and finite, not {self.scale}")
        if not LOWEST <= self.zero_point <= HIGHEST:
            raise UsageError(f"an input's zero point must be from {LOWEST} to {HIGHEST}, not {self.zero_point}")

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest value that it can stand for."""
        return (LOWEST - self.zero_point) * self.scale, (HIGHEST - self.zero_point) * self.scale


# As compressed-tensors' ``QuantizationArgs`` has it.
SECTION: Mapping[str, Any] = {
    "num_bits": NUM_BITS,
    "type": "int",
    "symmetric": False,
    "strategy": "tensor",
    "group_size": None,
    "dynamic": False,
    "observer": "minmax",
}
