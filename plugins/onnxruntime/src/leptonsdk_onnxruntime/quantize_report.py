"""What quantizing a graph did, as an artifact tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from leptonsdk.errors import ExportError


@dataclass
class QuantizationReport:
    """Counts, and the modules whose weights stay in float."""

    matmuls: int = 0
    matmuls_by_rows: int = 0
    matmuls_in_blocks: int = 0
    embeddings: int = 0
    embeddings_in_4_bits: int = 0
    kept: list[str] = field(default_factory=list)


def described(report: QuantizationReport, calibration: Mapping[str, Any]) -> dict[str, Any]:
    """A report for an artifact's details.

    Raises:
        ExportError: Nothing was quantized.
    """
    if not (report.matmuls or report.matmuls_by_rows or report.matmuls_in_blocks or report.embeddings):
        raise ExportError(
            "nothing was quantized", hint="`ignore` names every weight, or the model has none that is large"
        )
    return {
        "matmuls": report.matmuls,
        "matmuls_by_rows": report.matmuls_by_rows,
        "matmuls_in_blocks": report.matmuls_in_blocks,
        "embeddings": report.embeddings,
        "embeddings_in_4_bits": report.embeddings_in_4_bits,
        "kept_in_float": report.kept,
        "weights": "int8, symmetric, one scale per output channel (embeddings: per row; in 4 bits: per block)",
        "activations": "uint8, one scale per tensor (products by rows: one per row; in blocks: int8, one per row and block)",
        "calibration": dict(calibration),
    }
