"""For the tests of the package and of its plugins: one thread for each worker, and training on two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # One worker a core: more threads than that wait for each other, and the processes that tests start inherit this.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

_SCRIPT = Path(__file__).parent / "tests" / "training" / "two_processes.py"


@pytest.fixture(scope="session")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, list[Any]]]:
    """Trains the ``CASES`` of a test file on two processes; what its ``train`` gave on each, by case."""

    def run(file: str) -> dict[str, list[Any]]:
        import torch

        folder = tmp_path_factory.mktemp("two")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        done = subprocess.run(
            [*command, str(_SCRIPT), file, str(folder)],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr[-5000:]
        cases = sorted({path.name.split(".")[0] for path in folder.glob("*.pt")})
        return {case: [torch.load(folder / f"{case}.{rank}.pt") for rank in range(2)] for case in cases}

    return run
