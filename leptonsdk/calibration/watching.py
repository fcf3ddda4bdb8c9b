"""What layers read while a model runs, seen by hooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from leptonsdk.calibration.inputs import Inputs, attended, positions


def layers_by_input(model: nn.Module, layers: Mapping[str, nn.Module], inputs: Inputs) -> list[tuple[str, ...]]:
    """Layers by name in the order of a forward, those together that read the same tensor (query, key and value, say).

    Layers that the forward never calls are left out.
    """
    seen: dict[str, tuple[int, Tensor]] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            seen.setdefault(name, (arguments[0]._version, arguments[0]))

        return hook

    _run(model, [module.register_forward_pre_hook(note(name)) for name, module in layers.items()], inputs)
    groups: list[list[str]] = []
    last: tuple[int, Tensor] | None = None
    for name, (version, x) in seen.items():
        if last is not None and last[1] is x and last[0] == version:
            groups[-1].append(name)
        else:
            groups.append([name])
        last = (version, x)
    return [tuple(names) for names in groups]


def watch_inputs(
    model: nn.Module, layers: Mapping[str, nn.Module], inputs: Inputs, see: Callable[[str, Tensor], None]
) -> None:
    """Run the model on a batch and show what some of its layers read: ``see(name, x)`` with ``x`` ``[positions, in]``.

    Padding is left out. A layer that is called several times is shown each of them. Gradients are off, and no hook stays.
    """

    def show(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            x = arguments[0].detach()
            see(name, positions(x, attended(inputs, x)))

        return hook

    _run(model, [module.register_forward_pre_hook(show(name)) for name, module in layers.items()], inputs)


def _run(model: nn.Module, handles: list[Any], inputs: Inputs) -> None:
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
