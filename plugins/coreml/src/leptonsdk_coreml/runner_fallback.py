"""Operations by MIL's own NumPy inference, for those that `runner_operations` has not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from coremltools.converters.mil.mil import Builder, Operation


def can_fall_back(op: Any) -> bool:
    """Whether MIL itself computes the value of such an operation."""
    return type(op).value_inference is not Operation.value_inference


def by_mil(op: Any) -> Callable[..., Any]:
    """A function of an operation's arguments that builds it anew from constants and lets MIL infer its value."""

    def compute(**arguments: Any) -> Any:
        given = {name: _array(value) for name, value in arguments.items() if value is not None}
        found: list[Any] = []

        @Builder.program(input_specs=[], opset_version=op.opset_version)  # type: ignore[untyped-decorator]
        def _program() -> Any:
            result = getattr(Builder, op.op_type)(**given)
            found.extend(result if isinstance(result, tuple | list) else [result])
            return result

        return tuple(torch.from_numpy(np.asarray(var.val).copy(order="C")) for var in found)

    return compute


def _array(value: Any) -> Any:
    if isinstance(value, list):
        return [_array(part) for part in value]
    return value.numpy() if isinstance(value, torch.Tensor) else value
