"""States as a run writes them: conditions judged by the real gate, latencies made by the real class, the rest by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from leptonsdk.evaluation.timing import Latency
from leptonsdk.gating import (
    ConditionResult,
    exact,
    get_statistic,
    metric_condition,
    overall,
    ratio_condition,
    ratio_of_medians,
)

METRICS: dict[str, dict[str, Any]] = {
    "mrr@10": {"higher_is_better": True, "reference": False, "description": "Mean reciprocal rank."},
    "recall@10": {"higher_is_better": True, "reference": False, "description": "Passage in the first 10."},
    "perplexity": {"higher_is_better": False, "reference": False, "description": "Exp of the mean NLL."},
    "kl": {"higher_is_better": False, "reference": True, "description": "Divergence from the baseline."},
}
VALUES = {
    "baseline": {"mrr@10": 0.6134, "recall@10": 0.812, "perplexity": 23.451},
    "01-rtn": {"mrr@10": 0.6121, "recall@10": 0.811, "perplexity": 24.02, "kl": 0.0312},
    "onnxruntime-int8-dynamic": {"mrr@10": 0.6115, "recall@10": 0.8125, "perplexity": 24.6, "kl": 0.0401},
    "onnxruntime-fp32": {"mrr@10": 0.6121, "recall@10": 0.811, "perplexity": 24.02, "kl": 0.0312},
}
BYTES = {
    "baseline": 90_868_376,
    "01-rtn": 23_110_208,
    "onnxruntime-int8-dynamic": 22_980_117,
    "onnxruntime-fp32": 90_412_004,
}
MILLISECONDS = {  # by batch size
    "baseline": {1: 9.4, 32: 148.2},
    "01-rtn": {1: 9.9, 32: 151.0},
    "onnxruntime-int8-dynamic": {1: 2.31, 32: 51.3},
    "onnxruntime-fp32": {1: 4.9, 32: 118.0},
}
PARITY = {
    "max_abs_diff": 0.0123,
    "relative_rms": 0.0081,
    "cosine": 0.99941,
    "samples": 64,
    "outputs": ["last_hidden_state"],
    "measure": "relative_rms",
    "tolerance": 0.25,
}


def timings(name: str, length: int | None = 128, turns: int = 15) -> list[Latency]:
    """Latencies of a model that is known here (others: as the baseline's), with a slow spell that all share."""
    rng = np.random.default_rng(sum(map(ord, name)))
    spell = 1 + 0.04 * np.abs(rng.standard_normal(turns))
    spell[4:6] *= 1.2
    per_batch = MILLISECONDS.get(name, MILLISECONDS["baseline"])
    return [Latency(batch, length, tuple(float(s) for s in ms / 1e3 * spell)) for batch, ms in per_batch.items()]


def model(name: str, values: dict[str, float] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "model": "torch" if not name.startswith("onnx") else name.replace("-", " ", 1),
        "folder": None,
        "scores": f"scores/{name}/scores.parquet",
        "values": values if values is not None else VALUES.get(name, VALUES["baseline"]),
        "runtime": "onnxruntime 1.23.2 (CPU)" if name.startswith("onnx") else "torch 2.11.0 (cpu, float32)",
        "bytes": BYTES.get(name, BYTES["baseline"]),
        "parameters": 22_713_216,
        "sparsity": 0.0,
        "bits_per_weight": 8.15 if "int8" in name or "rtn" in name else 32.0,
        "latency": [],
        "memory_bytes": None,
        **more,
    }


def done(seconds: float) -> dict[str, Any]:
    return {"key": "0" * 64, "state": "done", "seconds": seconds, "peak_memory_bytes": 512_000_000}


def metric_drop(
    subject: str, name: str = "mrr@10", drop: float | None = None, limit: float = 0.02, **options: Any
) -> dict[str, Any]:
    """A condition on a metric, judged by the real gate on made-up scores. ``drop``: how much worse, else as in VALUES."""
    rng = np.random.default_rng(0)
    higher = options.setdefault("higher_is_better", METRICS.get(name, {}).get("higher_is_better", True))
    base = VALUES["baseline"].get(name, 0.5)
    value = VALUES.get(subject, {}).get(name, base) if drop is None else base + (-drop if higher else drop)
    before = base * (1 + _centred(rng, 0.3))
    after = before - base + value + base * _centred(rng, 0.05)
    options = {"binary": False, "relative": False, "confidence": 0.95, "resamples": 500, "seed": 0, **options}
    result = metric_condition(
        name, {"s": before}, {"s": after}, ["s"], get_statistic("mean"), max_drop=limit, subject=subject, **options
    )
    return result.as_dict()


def _centred(rng: np.random.Generator, spread: float) -> Any:
    noise = spread * rng.standard_normal(400)
    return noise - noise.mean()


def speedup(subject: str, limit: float = 2.0, batch: int = 32) -> dict[str, Any]:
    old = next(t for t in timings("baseline") if t.batch_size == batch)
    new = next(t for t in timings(subject) if t.batch_size == batch)
    interval = ratio_of_medians(np.asarray(old.turns), np.asarray(new.turns), 0.95, seed=0)
    detail = {"batch_size": batch, "sequence_length": new.sequence_length, "turns": len(new.turns)}
    result = ratio_condition(
        "latency",
        "min_speedup",
        old.median * 1e3,
        new.median * 1e3,
        interval,
        limit,
        subject=subject,
        detail=detail,
    )
    return result.as_dict()


def reduction(subject: str, limit: float = 3.5, baseline_is: str = "source") -> dict[str, Any]:
    before, after = float(BYTES["baseline"]), float(BYTES[subject])
    result: ConditionResult = ratio_condition(
        "size",
        "min_reduction",
        before,
        after,
        exact(before / after),
        limit,
        subject=subject,
        detail={"baseline_is": baseline_is},
    )
    return result.as_dict()


def build_state(
    steps: Sequence[str] = ("01-rtn",),
    exports: Sequence[str] = ("onnxruntime-int8-dynamic",),
    conditions: Sequence[dict[str, Any]] = (),
    **changes: Any,
) -> dict[str, Any]:
    """``run.json`` of a run with these steps, exports and judged conditions; ``changes`` are laid over it."""

    def timed(name: str) -> dict[str, Any]:
        return {"latency": [t.as_dict() for t in timings(name)], "memory_bytes": 3 * BYTES.get(name, BYTES["baseline"])}

    baseline = model("baseline", **timed("baseline"))
    values = {name: dict(own) for name, own in VALUES.items()}
    for condition in conditions:  # what the gate judged is what was scored
        if condition["kind"] == "max_drop" and condition["subject"] in values:
            values[condition["subject"]][condition["metric"]] = condition["candidate"]
    last = not exports and steps
    step_models = [
        model(
            n, values.get(n), **done(12.3), config={"scheme": "W8A16"}, **(timed(n) if last and n == steps[-1] else {})
        )
        for n in steps
    ]
    artifacts = [
        model(
            name,
            values.get(name),
            **timed(name),
            **done(31.0),
            backend="onnxruntime",
            precision=name.partition("-")[2],
            config={},
            details={"entry": "onnx/model.onnx", "parity": PARITY},
        )
        for name in exports
    ]
    ledger: list[dict[str, Any]] = []
    before: dict[str, float] = {}
    for entry in (baseline, *step_models, *artifacts):
        kind = "source" if entry is baseline else "export" if "backend" in entry else "compress"
        own = entry["values"]
        change = {metric: value - before[metric] for metric, value in own.items() if metric in before}
        ledger.append({"name": entry["name"], "kind": kind, "values": own, "change": change, "bytes": entry["bytes"]})
        if kind != "export":
            before = own
    verdict = overall(c["verdict"] for c in conditions) if conditions else None
    work = {f"scores/{e['name']}": done(4.2) for e in (baseline, *step_models, *artifacts)}
    state: dict[str, Any] = {
        "schema": 1,
        "work": {
            **work,
            **{f"steps/{n}": done(12.3) for n in steps},
            **{f"artifacts/{n}": done(31.0) for n in exports},
        },
        "verdict": verdict,
        "exit_code": {"pass": 0, "fail": 1, "inconclusive": 3, None: 0}[verdict],
        "conditions": list(conditions),
        "baseline": baseline,
        "steps": step_models,
        "artifacts": artifacts,
        "task": "sentence-similarity",
        "metrics": [{"name": name, "columns": ["s"], **entry} for name, entry in METRICS.items()],
        "data": {"examples": 400, "label": "python-docstrings", "fingerprint": "ab12" * 16},
        "model": {"id": "all-MiniLM-L6-v2", "kind": "hub", "files": {"model.safetensors": "cd34" * 16}},
        "recipe": {
            "version": 1,
            "model": {"id": "all-MiniLM-L6-v2", "task": "sentence-similarity"},
            "data": {"eval": {"path": "python-docstrings"}},
            "steps": [{name.partition("-")[2]: {"scheme": "W8A16"}} for name in steps],
            "export": [{"onnxruntime": {"precision": name.partition("-")[2]}} for name in exports],
            "gate": {"mrr@10": {"max_drop": 0.02}},
        },
        "seed": 0,
        "threads": 8,
        "versions": {"python": "3.11.9", "leptonsdk": "0.1.0", "torch": "2.11.0"},
        "hardware": {
            "processor": "Example CPU @ 2.50GHz",
            "machine": "x86_64",
            "cores": 8,
            "memory_bytes": 33_000_000_000,
            "system": "Linux 6.1",
        },
        "ledger": ledger,
    }
    return {**state, **changes}


@pytest.fixture
def make_state() -> Callable[..., dict[str, Any]]:
    return build_state


@pytest.fixture
def gated() -> dict[str, Any]:
    """One artifact that passes: metric, speed, size."""
    name = "onnxruntime-int8-dynamic"
    return build_state(conditions=[metric_drop(name), speedup(name), reduction(name)])


@pytest.fixture
def conditions() -> dict[str, Callable[..., dict[str, Any]]]:
    """Makers of judged conditions: ``metric``, ``speed``, ``size``."""
    return {"metric": metric_drop, "speed": speedup, "size": reduction}
