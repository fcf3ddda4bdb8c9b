"""The reference evaluator: a saved ML program read back and computed operation by operation, from its own weights.

It proves graph and weights, not Apple's kernels. In fp16 programs weights and the result of every operation are rounded to
fp16, and an operation's own sums are in fp32, as on hardware with wide accumulators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from coremltools.converters.mil.frontend.milproto.load import load as load_program
from coremltools.converters.mil.mil import types

from leptonsdk.errors import ExportError
from leptonsdk.exporting import quiet
from leptonsdk_coreml.runner_fallback import by_mil, can_fall_back
from leptonsdk_coreml.runner_operations import OPERATIONS

_INTEGERS = (types.int8, types.int16, types.int32, types.int64, types.uint8, types.uint16, types.uint32)


@dataclass(frozen=True)
class _Step:
    """One operation: what computes it, where its arguments are, where its results go, and which are rounded."""

    compute: Callable[..., Any]
    arguments: Mapping[str, Any]
    results: tuple[str, ...]
    rounded: tuple[bool, ...]
    last_use: tuple[str, ...]


class _Ref(str):
    """The name of a value that an earlier step computes."""


class ReferenceProgram:
    """A program that is called with torch tensors by input name.

    Attributes:
        rounds: Whether there are values in fp16.

    Raises:
        ExportError: It has operations that nothing here computes; they are named.
    """

    def __init__(self, model: Any) -> None:
        with quiet():
            program = read_program(model)
        main = program.functions["main"]
        self.outputs = tuple(var.name for var in main.outputs)
        constants: dict[str, Any] = {}
        steps: list[_Step] = []
        unknown: set[str] = set()
        for op in main.operations:
            if _is_constant(op):
                continue
            if op.blocks or not (op.op_type in OPERATIONS or can_fall_back(op)):
                unknown.add(op.op_type)
                continue
            arguments = {name: _argument(value, constants) for name, value in op.inputs.items()}
            compute = OPERATIONS.get(op.op_type) or by_mil(op)
            rounded = tuple(var.dtype == types.fp16 for var in op.outputs)
            steps.append(_Step(compute, arguments, tuple(var.name for var in op.outputs), rounded, ()))
        if unknown:
            raise ExportError(
                f"the reference evaluation does not know the operations {', '.join(sorted(unknown))}",
                where="coreml",
                hint="run the package on macOS",
            )
        self.rounds = any(any(step.rounded) for step in steps)
        self.steps = _freed(steps, self.outputs)

    @torch.inference_mode()
    def __call__(self, feed: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        values: dict[str, Any] = dict(feed)
        for step in self.steps:
            found = step.compute(**{name: _filled(value, values) for name, value in step.arguments.items()})
            results = found if isinstance(found, tuple) else (found,)
            for name, result, rounded in zip(step.results, results, step.rounded, strict=True):
                values[name] = result.half().float() if rounded else result
            for name in step.last_use:
                values.pop(name, None)
        return {name: values[name].clone() for name in self.outputs}


def read_program(model: Any) -> Any:
    """The MIL program of a saved `MLModel`."""
    spec = model.get_spec()
    return load_program(spec, spec.specificationVersion, model.weights_dir)


def constant(var: Any) -> np.ndarray | None:
    """What a constant holds, decompressed; None of what is computed."""
    if var.op is None:
        return None
    if var.op.op_type.startswith("constexpr_"):
        return np.asarray(var.op.materialized_val_inference())
    return None if var.val is None else np.asarray(var.val)


def _argument(value: Any, constants: dict[str, Any]) -> Any:
    if isinstance(value, list | tuple):
        return [_argument(part, constants) for part in value]
    if value is None:
        return None
    if value.name not in constants:
        found = constant(value) if value.op is not None and _is_constant(value.op) else None
        constants[value.name] = _Ref(value.name) if found is None else _tensor(found)
    return constants[value.name]


def _is_constant(op: Any) -> bool:
    return bool(op.op_type == "const" or op.op_type.startswith("constexpr_"))


def _tensor(value: np.ndarray) -> Any:
    """Arrays as tensors, floats as fp32, integers as int32; a single number or word as what it is."""
    if value.ndim == 0:
        return value.item()
    if value.dtype.kind == "f":
        return torch.from_numpy(value.astype(np.float32))
    if value.dtype.kind in "iu":
        return torch.from_numpy(value.astype(np.int32))
    return torch.from_numpy(value) if value.dtype.kind == "b" else value.tolist()


def _filled(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, _Ref):
        return values[value]
    return [_filled(part, values) for part in value] if isinstance(value, list) else value


def _names(value: Any) -> list[str]:
    if isinstance(value, _Ref):
        return [value]
    return [name for part in value for name in _names(part)] if isinstance(value, list) else []


def _freed(steps: list[_Step], outputs: tuple[str, ...]) -> list[_Step]:
    """The steps, each with the values that nothing after it reads."""
    kept, found = set(outputs), []
    for step in reversed(steps):
        read = {name for value in step.arguments.values() for name in _names(value)} | set(step.results)
        found.append(_Step(step.compute, step.arguments, step.results, step.rounded, tuple(read - kept)))
        kept |= read
    return found[::-1]
