"""All calibration batches through a model in step, layer by layer: each forward runs as a coroutine that pauses at a layer.

A layer's rounding or pruning should be fitted to the inputs that it will see, which come from layers that are done already. With one
forward per layer that is quadratic in depth. Here a model is run once: every batch's forward pauses where it needs a layer
that is not done, all of them have then brought that layer's inputs, the layer is changed, and they go on with its new weight.
Since the pause is inside the forward, it is no matter how the model is built: encoders, decoders, both, experts, heads of any
kind. What is held meanwhile is what the forwards hold: their hidden states.

Each batch runs twice side by side, once with the source's weights and once with the new ones, where it is asked how
far the inputs have drifted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from greenlet import GreenletExit, getcurrent, greenlet
from torch import Tensor, nn
from torch.nn import functional

from leptonsdk.calibration.inputs import Inputs, attended, positions
from leptonsdk.calibration.watching import layers_by_input
from leptonsdk.quantization import bias_of, weight_of


@dataclass(frozen=True)
class Group:
    """Layers that read the same tensor (query, key and value, say), by their place in a forward."""

    position: int
    names: tuple[str, ...]


@dataclass
class Stream:
    """One batch's forward. While it pauses, ``group`` is the position that it needs and ``x`` that group's input."""

    inputs: Inputs
    new: bool
    run: greenlet | None = None
    group: int = -1
    x: Tensor | None = None


@dataclass(frozen=True)
class Arrived:
    """What one batch brings to a group: inputs ``[positions, in]`` with padding left out, and the source's where they are run."""

    x: Tensor
    source: Tensor | None


def find_groups(model: nn.Module, layers: Mapping[str, nn.Module], inputs: Inputs) -> list[Group]:
    """The layers in the order of a forward, those with one input together. Layers that it never calls are left out."""
    together = layers_by_input(model, layers, inputs)
    return [Group(position, names) for position, names in enumerate(together)]


@dataclass
class Lockstep:
    """A model whose layers pause. Use `opened`, then `advance` group by group.

    Attributes:
        model: Its layers' forwards are replaced while this is open.
        layers: By name.
        groups: Of `find_groups`.
        compute_dtype: Of the layers' products; None: the model's own.
    """

    model: nn.Module
    layers: Mapping[str, nn.Module]
    groups: Sequence[Group]
    compute_dtype: torch.dtype | None = None
    streams: list[Stream] = field(default_factory=list)
    _position: dict[str, int] = field(default_factory=dict)
    _done: set[int] = field(default_factory=set)
    _new: Callable[[str], Tensor] | None = None
    _cast: dict[tuple[str, bool], Tensor] = field(default_factory=dict)
    _current: Stream | None = None
    _home: greenlet | None = None

    @contextmanager
    def opened(self, new_weight: Callable[[str], Tensor]) -> Iterator[Lockstep]:
        """Replace the layers' forwards; put them back and drop all streams at the end.

        Args:
            new_weight: The new weight ``[out, in]`` of a layer that is done.
        """
        self._new, self._home = new_weight, getcurrent()
        self._position = {name: group.position for group in self.groups for name in group.names}
        try:
            for name in self._position:
                self.layers[name].forward = self._forward(name, self.layers[name])
            yield self
        finally:
            for stream in self.streams:
                self._stop(stream)
            self.streams.clear()
            self._cast.clear()
            for name in self._position:
                del self.layers[name].forward

    def start(self, inputs: Inputs, *, new: bool) -> Stream:
        """Run a batch up to its first layer."""
        stream = Stream(inputs, new)
        stream.run = greenlet(lambda: self.model(**inputs) and None, parent=self._home)
        self.streams.append(stream)
        self._go_on(stream)
        return stream

    def next_group(self) -> Group | None:
        """The first group that a batch waits for; None when all have passed their last layer.

        Every forward calls its layers in one order and may leave some out (experts), so that whoever will come to the
        first one is there.
        """
        waiting = [stream.group for stream in self.streams if stream.run is not None]
        return self.groups[min(waiting)] if waiting else None

    def waiting(self, group: Group) -> list[Stream]:
        """The streams that wait at a group."""
        return [stream for stream in self.streams if stream.run is not None and stream.group == group.position]

    def release(self, group: Group) -> None:
        """The group is done: let those that wait for it run to their next one."""
        self._done.add(group.position)
        self._cast.clear()
        for stream in self.waiting(group):
            if group.position == len(self.groups) - 1:
                self._stop(stream)  # what follows the last layer, a language model's head mostly, is not needed
            else:
                self._go_on(stream)

    def _go_on(self, stream: Stream) -> None:
        if stream.run is None:
            return
        stream.x, self._current = None, stream
        arrived = stream.run.switch()
        self._current = None
        if stream.run.dead:
            stream.run = None
        else:
            stream.group, stream.x = arrived

    def _stop(self, stream: Stream) -> None:
        if stream.run is not None:
            stream.run.throw(GreenletExit)
        stream.run = stream.x = None

    def _forward(self, name: str, module: nn.Module) -> Callable[[Tensor], Tensor]:
        position = self._position[name]

        def forward(x: Tensor) -> Tensor:
            if position not in self._done and self._home is not None:
                self._home.switch((position, x))
            new = self._current is not None and self._current.new
            dtype = self.compute_dtype or x.dtype
            weight, bias = self._weight(name, module, new, dtype), bias_of(module)
            return functional.linear(x.to(dtype), weight, None if bias is None else bias.to(dtype)).to(x.dtype)

        return forward

    def _weight(self, name: str, module: nn.Module, new: bool, dtype: torch.dtype) -> Tensor:
        key = (name, new)
        if key not in self._cast:
            if new and self._new is not None:
                self._cast[key] = self._new(name).to(weight_of(module).device, dtype)
            else:
                self._cast[key] = weight_of(module).detach().to(dtype)
        return self._cast[key]


def arrivals(streams: Iterable[Stream]) -> Iterator[Arrived]:
    """The inputs that a group's streams brought, each batch's new side with its source side where it has one.

    Sides are of use to each other only with the same positions, which a router may deny them.
    """
    pairs: dict[int, dict[bool, Stream]] = {}
    for stream in streams:
        pairs.setdefault(id(stream.inputs), {})[stream.new] = stream
    for pair in pairs.values():
        mine, other = pair.get(True), pair.get(False)
        if mine is None or mine.x is None:
            continue
        keep = attended(mine.inputs, mine.x)
        source = other.x if other is not None and other.x is not None and other.x.shape == mine.x.shape else None
        yield Arrived(positions(mine.x, keep), None if source is None else positions(source, keep))
