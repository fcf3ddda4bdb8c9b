"""The gate's conditions put together from what was measured."""

from __future__ import annotations

import numpy as np
import pytest

from leptonsdk.errors import EvaluationError, UsageError
from leptonsdk.evaluation.scores import Scores
from leptonsdk.evaluation.timing import Latency, Measurement
from leptonsdk.hooks import Metric
from leptonsdk.pipeline.judging import Candidate, judge
from leptonsdk.pipeline.results import default_length
from leptonsdk.recipe.schema import GateSpec

ACCURACY = Metric("accuracy", ("correct",), binary=True)


def scores(wrong: int, n: int = 1000, ids: str = "e") -> Scores:
    correct = np.ones(n, dtype=np.int64)
    correct[:wrong] = 0
    return Scores("t", tuple(f"{ids}{i}" for i in range(n)), {"correct": correct}, (ACCURACY,))


def candidate(name: str, wrong: int, size: int, ms: float, memory: int = 100) -> Candidate:
    turns = tuple(ms / 1e3 * (1 + 0.01 * (i % 3)) for i in range(15))
    latency = (Latency(32, 128, turns), Latency(1, 128, tuple(t / 20 for t in turns)))
    return Candidate(name, scores(wrong), size, Measurement("r", latency, memory), parameters=100)


def verdicts(gate: dict[str, object], baseline: Candidate, other: Candidate) -> dict[str, str]:
    return {f"{r.metric}/{r.kind}": r.verdict for r in judge(baseline, other, GateSpec.model_validate(gate), seed=0)}


def test_every_kind_of_condition() -> None:
    gate = {
        "accuracy": {"max_drop": 0.02},
        "latency": [
            {"min_speedup": 2.5, "batch_size": 32, "sequence_length": 128},
            {"max_ms": 1.0, "batch_size": 1},
        ],
        "size": {"min_reduction": 3.8, "max_bytes": 104},
        "memory": {"min_reduction": 2},
    }
    found = verdicts(gate, candidate("b", 50, 400, 90, 200), candidate("c", 52, 105, 30, 101))
    assert found == {
        "accuracy/max_drop": "pass",
        "latency/min_speedup": "pass",
        "latency/max_ms": "fail",
        "size/min_reduction": "pass",
        "size/max_bytes": "fail",
        "memory/min_reduction": "fail",
    }


def test_few_examples_cannot_prove_a_small_drop() -> None:
    gate = {"accuracy": {"max_drop": 0.01}}
    assert verdicts(gate, candidate("b", 50, 1, 1), candidate("c", 55, 1, 1)) == {"accuracy/max_drop": "inconclusive"}
    assert verdicts(gate, candidate("b", 50, 1, 1), candidate("c", 150, 1, 1)) == {"accuracy/max_drop": "fail"}


def test_size_against_fp32_counts_four_bytes_a_parameter() -> None:
    gate = {"size": {"min_reduction": 3.9, "baseline": "fp32"}}
    assert verdicts(gate, candidate("b", 0, 200, 1), candidate("c", 0, 100, 1)) == {"size/min_reduction": "pass"}


def test_what_was_not_measured_or_not_on_the_same_examples_is_an_error() -> None:
    baseline, other = candidate("b", 0, 1, 1), candidate("c", 0, 1, 1)
    with pytest.raises(EvaluationError, match="not timed at the gate's batch size"):
        verdicts({"latency": {"min_speedup": 1, "batch_size": 7}}, baseline, other)
    with pytest.raises(EvaluationError, match="no metric 'f1'"):
        verdicts({"f1": {"max_drop": 0.1}}, baseline, other)
    moved = Candidate("c", scores(0, ids="other"), 1)
    with pytest.raises(EvaluationError, match="examples differ"):
        verdicts({"accuracy": {"max_drop": 0.1}}, baseline, moved)


def test_the_plain_call_refuses_a_condition_that_is_none() -> None:
    import leptonsdk as lepton

    with pytest.raises(UsageError, match="max_dorp"):
        lepton.gate(scores(0), scores(0), {"accuracy": {"max_dorp": 0.1}})
    result = lepton.gate(scores(10), scores(60), {"accuracy": {"max_drop": 0.01}})
    assert (result.verdict, result.exit_code) == ("fail", 1)


def test_the_length_that_nobody_chose_fits_the_model() -> None:
    assert default_length({"max_position_embeddings": 512}) == 128
    assert default_length({"max_position_embeddings": 64}) == default_length({"n_positions": 64}) == 64
    assert default_length({}) == 128
