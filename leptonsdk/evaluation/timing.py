"""Latency and memory of several models, measured side by side: each in a child process, timed by turns.

A turn times every model once, so that a slow spell of the machine falls on all of them. The statistics are those of turns.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from leptonsdk.errors import EvaluationError
from leptonsdk.hooks.classes import Progress, no_progress

_TURN_SECONDS = 0.25  # each model's share of a turn
_MAX_REPEATS = 50
_WARM_UPS = 3


@dataclass(frozen=True)
class Target:
    """A model to time: an artifact's folder, or a saved checkpoint's folder or reference."""

    name: str
    kind: str
    folder: str
    task: str
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Latency:
    """Seconds per call at one batch size and length.

    ``turns`` holds the median of each turn; models that were timed together share their turns, so entry i of one pairs with
    entry i of another.
    """

    batch_size: int
    sequence_length: int | None
    turns: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.turns)

    @property
    def spread(self) -> tuple[float, float]:
        """First and third quartile of the turns."""
        quartiles = (
            statistics.quantiles(self.turns, n=4, method="inclusive") if len(self.turns) > 1 else [self.median] * 3
        )
        return quartiles[0], quartiles[2]

    @property
    def label(self) -> str:
        return f"batch {self.batch_size}" + (f", length {self.sequence_length}" if self.sequence_length else "")

    def as_dict(self) -> dict[str, Any]:
        low, high = self.spread
        return {
            "batch_size": self.batch_size,
            "sequence_length": self.sequence_length,
            "median_ms": self.median * 1e3,
            "quartiles_ms": [low * 1e3, high * 1e3],
            "turns_ms": [seconds * 1e3 for seconds in self.turns],
        }


@dataclass(frozen=True)
class Measurement:
    """What was measured of one model. ``memory`` is the peak that loading and running it added to its process, bytes."""

    runtime: str
    latencies: tuple[Latency, ...]
    memory: int


def measure(
    targets: Sequence[Target],
    inputs: Mapping[tuple[int, int | None], Mapping[str, torch.Tensor]],
    *,
    threads: int,
    turns: int = 15,
    progress: Progress = no_progress,
) -> dict[str, Measurement]:
    """Time models against each other.

    Args:
        targets: The models, in the order of each turn.
        inputs: Model inputs for each (batch size, sequence length).
        threads: CPU threads of each model.
        turns: How often each is timed; more turns, narrower intervals.
        progress: Shown to people.

    Raises:
        EvaluationError: A child process could not load or run its model.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for number, (setting, tensors) in enumerate(inputs.items()):
            files[setting] = str(Path(folder) / f"{number}.safetensors")
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, files[setting])
        children = [_Child(target, threads) for target in targets]
        try:
            runtimes = [child.ask(op="load", **child.request)["runtime"] for child in children]
            latencies: dict[str, list[Latency]] = {target.name: [] for target in targets}
            done, total = 0, turns * len(files)
            for (batch_size, length), path in files.items():
                repeats = [child.repeats(path) for child in children]
                medians: list[list[float]] = [[] for _ in children]
                for _ in range(turns):
                    for child, count, column in zip(children, repeats, medians, strict=True):
                        column.append(statistics.median(child.ask(op="time", inputs=path, repeats=count)["seconds"]))
                    done += 1
                    progress(done, total, "timing by turns")
                for target, column in zip(targets, medians, strict=True):
                    latencies[target.name].append(Latency(batch_size, length, tuple(column)))
            memory = [child.ask(op="memory")["bytes"] for child in children]
        finally:
            for child in children:
                child.close()
    return {
        target.name: Measurement(runtime, tuple(latencies[target.name]), peak)
        for target, runtime, peak in zip(targets, runtimes, memory, strict=True)
    }


def shape_inputs(inputs: Mapping[str, torch.Tensor], batch_size: int, length: int | None) -> dict[str, torch.Tensor]:
    """Real model inputs repeated to an exact batch size, and for texts to an exact length.

    The first row is filled: its tokens repeat along the second axis, so that no position is padding.
    """
    shaped = {}
    for name, tensor in inputs.items():
        row = tensor[:1]
        if length is not None and row.dim() == 2:
            row = row.repeat(1, -(-length // row.shape[1]))[:, :length]
        shaped[name] = row.repeat(batch_size, *[1] * (row.dim() - 1))
    if length is not None and "attention_mask" in shaped:
        shaped["attention_mask"] = torch.ones_like(shaped["attention_mask"])
    return shaped


class _Child:
    """A worker process and the line protocol with it."""

    def __init__(self, target: Target, threads: int) -> None:
        self.name = target.name
        self.request = {
            "kind": target.kind,
            "folder": target.folder,
            "task": target.task,
            "trust_remote_code": target.trust_remote_code,
            "threads": threads,
        }
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  closed in close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "leptonsdk.evaluation.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        process = self._process
        if process.stdin is None or process.stdout is None:
            raise EvaluationError("its process has no pipes", where=f"timing {self.name}")
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer: dict[str, Any] = json.loads(line) if line else {"error": f"its process ended: {self._last_words()}"}
        if "error" in answer:
            raise EvaluationError(answer["error"], where=f"timing {self.name}")
        return answer

    def repeats(self, path: str) -> int:
        """Warm up, and find how many calls fill this model's share of a turn."""
        seconds: float = min(self.ask(op="time", inputs=path, repeats=_WARM_UPS)["seconds"])
        return max(1, min(_MAX_REPEATS, round(_TURN_SECONDS / max(seconds, 1e-6))))

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return lines[-1] if lines else f"exit code {self._process.poll()}"

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()
