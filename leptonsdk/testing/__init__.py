"""The conformance kit: checks that tell a plugin's author whether it keeps its word.

In a plugin's tests::

    from leptonsdk.testing import CompressorConformance

    class TestConformance(CompressorConformance):
        plugin = MyCompressor

The checks are plain functions too (`checks_for`, `run_checks`), and ``lepton plugins check NAME`` runs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leptonsdk.lazy import names_on_demand
from leptonsdk.testing.check import Check, CheckFailed, CheckResult, CheckSkipped

if TYPE_CHECKING:
    from leptonsdk.testing.conformance import (
        BackendConformance,
        CompressorConformance,
        EvaluatorConformance,
        TrainingConformance,
    )
    from leptonsdk.testing.running import checks_for, run_checks

__all__ = [
    "BackendConformance",
    "Check",
    "CheckFailed",
    "CheckResult",
    "CheckSkipped",
    "CompressorConformance",
    "EvaluatorConformance",
    "TrainingConformance",
    "checks_for",
    "run_checks",
]

_PLACES = {
    **dict.fromkeys(
        ("BackendConformance", "CompressorConformance", "EvaluatorConformance", "TrainingConformance"), "conformance"
    ),
    **dict.fromkeys(("checks_for", "run_checks"), "running"),
}

__getattr__ = names_on_demand(__name__, _PLACES)
