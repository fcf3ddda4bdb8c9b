"""Find the attentions and feed-forward networks of a model by what they compute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from leptonsdk.errors import UsageError
from leptonsdk.quantization.layers import linear_layers, tied_layers, weight_of
from leptonsdk.quantization.library_layers import refuse_library_layers
from leptonsdk.structure.probing import describe_attention, describe_feed_forward, probe
from leptonsdk.structure.removal import remove_heads, remove_neurons
from leptonsdk.structure.tracing import Traced, capture, first_tensor, hooked, steady, trace
from leptonsdk.structure.trials import CANNOT_RUN, outputs_of, same_outputs
from leptonsdk.structure.units import Attention, FeedForward, common_parent

Unit = Attention | FeedForward


def find_units(model: nn.Module, inputs: Mapping[str, Any]) -> tuple[list[Attention], list[FeedForward]]:
    """The attentions and feed-forward networks of a model, in the order in which they run.

    The model runs a few times, and each candidate once for its probes. At the end a part of each is removed on trial and put
    back: what the model does not survive, or does not compute as with that part masked, is left out. Left out are also
    layers with query, key and value (or gate and up) in one, tied layers, and heads of classifiers, which look like
    feed-forward networks but for their width.

    Args:
        model: In floats; left as it was.
        inputs: Of its forward, one small batch of at least four positions.

    Raises:
        UsageError: Nothing is found, or a library quantized the model.
    """
    refuse_library_layers(model)
    with steady(model):
        candidates = _candidates(model, trace(model, inputs))
        parents = {common_parent((*sources, last)) for last, sources in candidates}
        arguments = capture(model, parents, inputs)
        found = [
            unit
            for last, sources in candidates
            if (unit := _describe(model, sources, last, arguments[common_parent((*sources, last))])) is not None
        ]
        found = _survivors(model, found, inputs)
    if not found:
        raise UsageError(
            "no attention heads and no feed-forward neurons were found that could be removed",
            where=type(model).__name__,
            hint="give inputs of at least four positions; layers with query, key and value in one are not supported",
        )
    return [u for u in found if isinstance(u, Attention)], [u for u in found if isinstance(u, FeedForward)]


def _candidates(model: nn.Module, traced: Mapping[str, Traced]) -> list[tuple[str, tuple[str, ...]]]:
    """Pairs of a last layer and the layers that its input is made of, in the order of the calls."""
    layers, tied = linear_layers(model), tied_layers(model)
    readers: dict[str, int] = {}
    for entry in traced.values():
        for name in entry.sources or ():
            readers[name] = readers.get(name, 0) + 1
    order = {name: i for i, name in enumerate(traced)}
    found = []
    for last, entry in traced.items():
        sources = tuple(sorted(entry.sources or (), key=order.__getitem__))
        if not sources or tied & {last, *sources} or any(readers[name] > 1 for name in sources):
            continue
        if len(sources) == 3 or _may_be_feed_forward(layers, traced, sources, last):
            found.append((last, sources))
    return found


def _may_be_feed_forward(
    layers: Mapping[str, nn.Module], traced: Mapping[str, Traced], sources: Sequence[str], last: str
) -> bool:
    outputs, inputs = weight_of(layers[last]).shape
    same_input = all(traced[name].inputs == traced[sources[0]].inputs for name in sources)
    shapes = {tuple(weight_of(layers[name]).shape) for name in sources}
    return len(sources) < 3 and same_input and shapes == {(inputs, outputs)}


def _describe(model: nn.Module, sources: tuple[str, ...], last: str, arguments: tuple[Any, Any]) -> Unit | None:
    parent = model.get_submodule(common_parent((*sources, last)))
    layers = {name: model.get_submodule(name) for name in sources}
    generator = torch.Generator().manual_seed(0)
    attention = len(sources) == 3
    try:
        found = probe(parent, arguments, layers, model.get_submodule(last), generator, positive=not attention)
    except CANNOT_RUN:  # a module that keeps a state, say
        return None
    return describe_attention(found, last) if attention else describe_feed_forward(found, sources, last)


def _survivors(model: nn.Module, found: list[Unit], inputs: Mapping[str, Any]) -> list[Unit]:
    """Those units of which a part can be removed while the others stay whole.

    Neighbours are tried apart: removing the same heads everywhere would hide what passes from one attention to the next
    (the position biases of T5).
    """
    kept: list[Unit] = []
    for kind in (Attention, FeedForward):
        units = [unit for unit in found if isinstance(unit, kind)]
        for half in (units[::2], units[1::2]):
            if half and not _removable(model, half, inputs):
                kept += [unit for unit in half if _removable(model, [unit], inputs)]
            else:
                kept += half
    return [unit for unit in found if unit in kept]


def _removable(model: nn.Module, units: Sequence[Unit], inputs: Mapping[str, Any]) -> bool:
    """Whether a model without the first part of some units computes the same as with its columns masked."""
    with ExitStack() as stack:
        for unit in units:
            stack.enter_context(hooked([_mask_first(model, unit)]))
        masked = outputs_of(model, inputs)
    with ExitStack() as stack:
        for unit in units:
            stack.enter_context(_restored(model.get_submodule(unit.name)))
            if isinstance(unit, Attention):
                remove_heads(model, unit, range(min(1, unit.groups - 1), unit.groups))
            else:
                remove_neurons(model, unit, range(min(1, unit.neurons - 1), unit.neurons))
        try:
            removed = outputs_of(model, inputs)
        except CANNOT_RUN:  # a shape does not fit somewhere
            return False
    return same_outputs(masked, removed)


def _mask_first(model: nn.Module, unit: Unit) -> Any:
    if isinstance(unit, Attention):
        width = 0 if unit.groups == 1 else unit.heads // unit.groups * unit.value_size
    else:
        width = min(1, unit.neurons - 1)

    def mask(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        x = first_tensor(args, kwargs).clone()
        x[..., :width] = 0
        return (x,), {}

    return model.get_submodule(unit.layers[-1]).register_forward_pre_hook(mask, with_kwargs=True)


@contextmanager
def _restored(module: nn.Module) -> Iterator[None]:
    """Put the parameters and plain attributes of a module and all that it holds back as they were."""
    before = [(m, dict(vars(m)), dict(m._parameters)) for m in module.modules()]
    try:
        yield
    finally:
        for m, attributes, parameters in before:
            vars(m).update(attributes)
            m._parameters.clear()
            m._parameters.update(parameters)
