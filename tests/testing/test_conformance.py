"""The conformance kit on what the core itself plugs in."""

from __future__ import annotations

from typing import Any

import pytest

from leptonsdk.builtin import lepton_evaluators
from leptonsdk.quantization import RoundToNearest
from leptonsdk.testing import CompressorConformance, run_checks
from leptonsdk.vocabulary import TrimVocabulary


class TestRoundToNearest(CompressorConformance):
    plugin = RoundToNearest


class TestTrimVocabulary(CompressorConformance):
    plugin = TrimVocabulary


@pytest.mark.parametrize("evaluator", lepton_evaluators(), ids=lambda evaluator: evaluator.name)
def test_every_task_passes(evaluator: type[Any]) -> None:
    assert {result.name: result.message for result in run_checks(evaluator) if not result.ok} == {}
