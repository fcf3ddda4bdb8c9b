"""Input shapes that get a compiled graph of their own: with every size known, OpenVINO plans memory and kernels ahead.

At batch 1 a small encoder spends a good part of its time on what a graph of unknown sizes must decide anew at each call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import openvino as ov

from leptonsdk.errors import ExportError

_AXES = ("batch_size", "sequence_length")  # of an input's first two axes, where they vary


def fixed_shapes(
    ports: Sequence[Mapping[str, Any]], sizes: Mapping[str, int | None], sample: Mapping[str, Sequence[int]]
) -> dict[str, list[int]]:
    """The inputs' shapes, by name, at a batch size and a sequence length.

    Args:
        ports: The graph's inputs as an artifact's details tell them: ``name``, and ``shape`` with None for axes that vary.
        sizes: ``batch_size``, and ``sequence_length`` for models whose inputs have one.
        sample: Shapes of a real batch, by name: what it has on other axes (an image's height and width) holds.

    Raises:
        ExportError: An axis varies that nothing tells the size of.
    """
    shapes = {}
    for port in ports:
        name = str(port["name"])
        known = dict(enumerate(sample.get(name, ()))) | {axis: sizes.get(called) for axis, called in enumerate(_AXES)}
        shapes[name] = [
            _size(name, axis, size if size is not None else known.get(axis)) for axis, size in enumerate(port["shape"])
        ]
    return shapes


def _size(name: str, axis: int, size: int | None) -> int:
    if size is None:
        raise ExportError(
            f"axis {axis} of the input {name!r} varies, and nothing tells its size",
            where="static_shapes",
            hint=f"say `{_AXES[axis]}` too" if axis < len(_AXES) else "leave it out for this model",
        )
    return size


def compile_at(path: Path, shapes: Mapping[str, Sequence[int]], options: Mapping[str, Any]) -> ov.CompiledModel:
    """A graph compiled for one shape of each input."""
    core = ov.Core()
    graph = core.read_model(str(path))
    graph.reshape({name: list(shape) for name, shape in shapes.items()})
    return core.compile_model(graph, "CPU", dict(options))
