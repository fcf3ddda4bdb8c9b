"""How far an exported model is from its source: what the export itself cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from leptonsdk.errors import ExportError

_FP32_TOLERANCE = 1e-3  # absolute; relative where outputs are above 1
_INT8_TOLERANCE = 0.25  # root mean square of the difference, relative to the outputs'


def measure_parity(model: Any, runner: Any, batches: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, Any]:
    """Compare every output that both have, over a few batches; padded positions are left out.

    Sums are kept, not outputs: a language model's logits over a few batches fill gigabytes.

    Returns:
        ``max_abs_diff``, ``mean_abs_diff``, ``relative_rms``, ``cosine`` over all outputs, ``max_abs_output``,
        ``samples``; ``argmax_agreement`` where there are logits.
    """
    total = _Sums()
    names: set[str] = set()
    for batch in batches:
        with torch.inference_mode():
            expected = model(**batch)
        found = runner(**batch)
        for name, value in found.items():
            reference = expected.get(name)
            if isinstance(reference, torch.Tensor) and isinstance(value, torch.Tensor):
                names.add(name)
                keep = _attended(reference, batch.get("attention_mask"))
                for row in range(reference.shape[0]):
                    ours, theirs = value[row][keep[row]], reference[row].detach().cpu()[keep[row]]
                    total.add(ours, theirs, logits=name == "logits")
    if not names:
        raise ExportError("the exported model has no output in common with its source")
    return {
        **total.result(),
        "samples": sum(next(iter(batch.values())).shape[0] for batch in batches),
        "outputs": sorted(names),
    }


@dataclass
class _Sums:
    """What the figures are made of, in float64."""

    count: int = 0
    difference: float = 0.0
    squared: float = 0.0
    largest: float = 0.0
    ours: float = 0.0
    theirs: float = 0.0
    product: float = 0.0
    greatest: float = 0.0
    positions: int = 0
    agreeing: int = 0

    def add(self, ours: torch.Tensor, theirs: torch.Tensor, *, logits: bool) -> None:
        if not theirs.numel():
            return
        if logits:
            same = ours.argmax(-1) == theirs.argmax(-1)
            self.positions, self.agreeing = self.positions + same.numel(), self.agreeing + int(same.sum())
        x, y = ours.double().flatten(), theirs.double().flatten()
        apart = (x - y).abs()
        self.count += y.numel()
        self.difference += float(apart.sum())
        self.squared += float(apart @ apart)
        self.ours, self.theirs, self.product = (
            self.ours + float(x @ x),
            self.theirs + float(y @ y),
            self.product + float(x @ y),
        )
        self.largest = _greater(self.largest, float(apart.max()))
        self.greatest = _greater(self.greatest, float(y.abs().max()))

    def result(self) -> dict[str, Any]:
        figures = {
            "max_abs_diff": self.largest,
            "mean_abs_diff": self.difference / self.count,
            "relative_rms": (self.squared / max(self.theirs, 1e-24 * self.count)) ** 0.5,
            "cosine": self.product / max((self.ours * self.theirs) ** 0.5, 1e-24),
            "max_abs_output": self.greatest,
        }
        return figures if not self.positions else {**figures, "argmax_agreement": self.agreeing / self.positions}


def _greater(a: float, b: float) -> float:
    """The greater of two, NaN if either is."""
    return b if b > a or math.isnan(b) else a


def check_parity(parity: Mapping[str, Any], exact: bool, tolerance: float | None, where: str) -> dict[str, Any]:
    """The parity with the tolerance that it was held against.

    Args:
        parity: Of `measure_parity`.
        exact: The export computes in float32, so that its outputs are the source's: the greatest difference counts; else, for
            rounded weights, the root mean square of all.
        tolerance: In the unit of what counts; None: 1e-3 (relative where outputs are above 1), and 0.25.
        where: Names the export in an error.

    Raises:
        ExportError: It is beyond it.
    """
    if exact:
        limit = tolerance if tolerance is not None else _FP32_TOLERANCE * max(1.0, parity["max_abs_output"])
        measure = "max_abs_diff"
    else:
        limit, measure = tolerance if tolerance is not None else _INT8_TOLERANCE, "relative_rms"
    # Written so that NaN fails.
    if not parity[measure] <= limit:
        raise ExportError(
            f"the exported model differs from its source: {measure} {parity[measure]:.3g}, allowed {limit:.3g}",
            where=where,
            hint="leave sensitive modules in float with `ignore`, or allow more with `tolerance`",
        )
    return {**parity, "measure": measure, "tolerance": limit}


def _attended(output: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Which positions of an output [batch, length, ...] are not padding: [batch, length]; all of any other output."""
    if mask is not None and mask.dim() == 2 and output.dim() == 3 and output.shape[:2] == mask.shape:
        return mask.bool().cpu()
    return torch.ones(output.shape[:2] if output.dim() > 1 else output.shape, dtype=torch.bool)
