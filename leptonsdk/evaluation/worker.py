"""The child process that times one model: ``python -m leptonsdk.evaluation.worker``.

One JSON object a line comes in, one goes out. A process of its own for each model, since the thread pools of two runtimes
in one process disturb each other, and since peak memory is a property of a process.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import IO, Any

from leptonsdk.errors import EvaluationError
from leptonsdk.evaluation.memory import peak_memory, settled_memory
from leptonsdk.hooks import errors_named


def main() -> None:
    """Serve requests until standard input ends. What libraries print goes to standard error, not among the answers."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, answers)


def serve(requests: IO[str], answers: IO[str]) -> None:
    """Answer ``load``, ``time`` and ``memory`` requests, one per line."""
    model = None
    for line in requests:
        request = json.loads(line)
        try:
            if request["op"] == "load":
                model = _Timed(request)
                answer: dict[str, Any] = {"runtime": model.runner.runtime}
            elif model is None:
                answer = {"error": "nothing is loaded"}
            elif request["op"] == "time":
                answer = {"seconds": model.time(request["inputs"], request["repeats"])}
            else:
                answer = {"bytes": model.added_memory()}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class _Timed:
    def __init__(self, request: dict[str, Any]) -> None:
        import torch
        from safetensors.torch import load_file

        from leptonsdk.artifact import Artifact
        from leptonsdk.evaluation.subjects import TorchRunner
        from leptonsdk.hooks import load_plugins

        torch.set_num_threads(request["threads"])
        self._read = load_file
        self._inputs: dict[str, dict[str, Any]] = {}
        self._backends: tuple[type[Any], ...] = ()
        if request["kind"] == "artifact":
            artifact = Artifact.open(request["folder"])
            backend = load_plugins().get("backend", artifact.backend)
            if (reason := backend.untimed()) is not None:
                raise EvaluationError(f"it cannot be timed on this system: {reason}", where=artifact.backend)
            for module in backend.runtime_modules:
                importlib.import_module(module)
            self._before = settled_memory()
            self._backends = (backend,)
            with errors_named(backend):
                self.runner: Any = backend.load(artifact, threads=request["threads"])
        else:
            from leptonsdk.checkpoint import load_checkpoint, model_class_for

            model_class_for(request["task"])
            self._before = settled_memory()
            checkpoint = load_checkpoint(
                request["folder"], task=request["task"], trust_remote_code=request.get("trust_remote_code", False)
            )
            self.runner = TorchRunner(checkpoint.model)

    def time(self, path: str, repeats: int) -> list[float]:
        inputs = self._inputs.get(path)
        if inputs is None:
            inputs = self._inputs[path] = self._read(path)
        seconds = []
        with errors_named(*self._backends, foreign=not self._backends):
            for _ in range(repeats):
                start = time.perf_counter()
                self.runner(**inputs)
                seconds.append(time.perf_counter() - start)
        return seconds

    def added_memory(self) -> int:
        return max(peak_memory() - self._before, 0)


if __name__ == "__main__":
    main()
