"""Outside of leptonsdk: a child process, kept for all checks, in which importing it fails."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from leptonsdk.testing.check import CheckFailed

_HINT = "write what plain transformers, or the runtime, reads without your package"


class _Child:
    def __init__(self, *without: str) -> None:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("worker.py")), *without],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        atexit.register(self._process.kill)

    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        return json.loads(line) if line else {"error": f"the process ended ({self._process.wait()})"}


@cache
def _start(*without: str) -> _Child:
    return _Child(*without)


def start(*without: str) -> _Child:
    """The child process: it takes seconds to import what it needs, so it is started early and kept.

    Args:
        without: Packages that cannot be imported in it, beside leptonsdk and its plugins.
    """
    if not _start(*without).alive():
        _start.cache_clear()
    return _start(*without)


def _ask(inputs: Mapping[str, Tensor], where: str, *without: str, **request: Any) -> dict[str, Tensor]:
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch) / "inputs.safetensors", Path(scratch) / "outputs.safetensors"
        save_file({name: value.contiguous() for name, value in inputs.items()}, source)
        answer = start(*without).ask({**request, "inputs": str(source), "outputs": str(target)})
        if "error" in answer:
            raise CheckFailed(f"it does not load and run without leptonsdk: {answer['error']}", where=where, hint=_HINT)
        return {name: torch.clone(value) for name, value in load_file(target).items()}


def run_model(folder: Path, inputs: Mapping[str, Tensor], output: str, where: str) -> Tensor:
    """An output of a model folder, loaded by plain ``from_pretrained`` in a process without leptonsdk.

    Raises:
        CheckFailed: It cannot be loaded or run there.
    """
    return _ask(inputs, where, folder=str(folder), output=output)[output]


def run_artifact(
    entry: Path, code: str, inputs: Mapping[str, Tensor], where: str, without: Sequence[str] = ()
) -> dict[str, Tensor]:
    """The outputs of an artifact, opened by a few lines in a process without leptonsdk.

    Args:
        entry: The artifact's entry.
        code: A backend's ``run_alone``, or others with such a function ``run(entry, inputs)``.
        inputs: By name.
        where: For the error.
        without: More packages that cannot be imported there, ``torch`` say.

    Raises:
        CheckFailed: It cannot be opened or run there.
    """
    return _ask(inputs, where, *without, entry=str(entry), code=code)
