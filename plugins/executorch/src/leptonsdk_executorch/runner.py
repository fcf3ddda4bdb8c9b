"""Running a program in ExecuTorch's own runtime: torch tensors in, an object with the source model's output names out."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import torch

from leptonsdk.artifact import Artifact
from leptonsdk.errors import UsageError
from leptonsdk.exporting import Outputs, complete_inputs

_DTYPES = {"int64": torch.int64, "int32": torch.int32, "float32": torch.float32, "bool": torch.bool}


class ExecuTorchRunner:
    """Runs a program's ``forward``. Batches larger than it takes are run in parts.

    Attributes:
        inputs: In the program's order: ``{"name", "dtype", "shape"}``, with the longest of an axis that varies as
            ``[1, longest]``.
        outputs: Their names in order.
    """

    def __init__(self, program: Any, precision: str, inputs: list[dict[str, Any]], outputs: list[str]) -> None:
        self._program, self._method = program, program.load_method("forward")
        self.inputs, self.outputs = inputs, outputs
        version = importlib.metadata.version("executorch")
        self.runtime = f"executorch {version} (XNNPACK, CPU, {precision})"
        self.input_names = frozenset(port["name"] for port in inputs)
        self.rows = _longest(inputs[0]["shape"][0])

    def __call__(self, **inputs: torch.Tensor) -> Any:
        """The outputs as torch tensors. Inputs that the program does not read are dropped."""
        given = complete_inputs(inputs, self.input_names)
        feed = [given[port["name"]].detach().to("cpu", _DTYPES[port["dtype"]]).contiguous() for port in self.inputs]
        for tensor, port in zip(feed, self.inputs, strict=True):
            _check(tensor, port)
        parts = [self._run([x[i : i + self.rows] for x in feed]) for i in range(0, len(feed[0]), self.rows)]
        return Outputs((name, torch.cat(values)) for name, *values in zip(self.outputs, *parts, strict=True))

    def _run(self, feed: list[torch.Tensor]) -> list[torch.Tensor]:
        # What comes back is the runtime's own memory, which the next call writes over.
        return [value.clone() for value in self._method.execute(feed)]


def _check(tensor: torch.Tensor, port: dict[str, Any]) -> None:
    for size, allowed in list(zip(tensor.shape, port["shape"], strict=True))[1:]:
        least, most = (1, _longest(allowed)) if isinstance(allowed, list) else (allowed, allowed)
        if not least <= size <= most:
            raise UsageError(
                f"the program takes '{port['name']}' of {'up to ' if least < most else ''}{most}, not {size}",
                hint="export with a larger max_length, or give a smaller one to the evaluation",
            )


def _longest(size: int | list[int]) -> int:
    return size[-1] if isinstance(size, list) else size


def load_runner(artifact: Artifact, threads: int | None) -> ExecuTorchRunner:
    """A program, loaded, with a pool of that many threads (None: ExecuTorch's choice)."""
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    if threads is not None:
        portable_lib._unsafe_reset_threadpool(threads)
    program = Runtime.get().load_program(artifact.folder / artifact.entry)
    return ExecuTorchRunner(program, artifact.precision, artifact.details["inputs"], artifact.details["outputs"])
