"""The way through a model, layer by layer: what a calibrated compressor needs around its own algorithm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, Self

import torch
from torch import Tensor, nn

from leptonsdk.calibration.inputs import Budget, Inputs, one_row, row_count
from leptonsdk.calibration.streams import Arrived, Group, Lockstep, Stream, arrivals, find_groups
from leptonsdk.errors import UsageError
from leptonsdk.quantization import weight_of


class LayerByLayer:
    """Linear layers in the order of a forward, each with the inputs that it will see from the layers before it.

    ::

        with LayerByLayer(model, layers, calibration_inputs(model, context, 4), positions=8192) as walk:
            for group in walk:  # layers that read one input: query, key and value, say
                x = [arrived.x for arrived in walk.arrived(group)]  # [positions, in] of each batch
                ...  # change the weights of group.names in place

    The model runs once: every batch's forward waits at a layer until the loop's body is done with it, and goes on with
    its new weight. Outside of the ``with`` nothing of this is left on the model, whatever happened inside. Nothing in it makes gradients.

    Args:
        model: Runs the calibration.
        layers: Linear layers by name.
        batches: Of `calibration_inputs`. As many are read as `positions` needs.
        positions: Tokens, patches or frames to calibrate with, padding left out; fewer if the data ends. Of an encoder-decoder
            the decoder sees a sixteenth of them at least.
        new_weight: The new weight ``[out, in]`` of a layer that is done; None: the layer's own, changed in place.
        with_source: Run each batch a second time, with the source's weights, so that `Arrived.source` says what a layer saw
            before. Needs ``new_weight``, since the source's weights must be there.
        compute_dtype: Of the layers' products; None: the model's own.

    Attributes:
        first: The first batch.
        groups: All of them.
        rows: How many rows of the data were read.

    Raises:
        UsageError: The data is empty.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, nn.Module],
        batches: Iterable[Inputs],
        *,
        positions: int,
        new_weight: Callable[[str], Tensor] | None = None,
        with_source: bool = False,
        compute_dtype: torch.dtype | None = None,
    ) -> None:
        if with_source and new_weight is None:
            raise ValueError("with_source needs new_weight: changed in place, the source's weights are gone")
        self._model, self._layers, self._batches = model, layers, iter(batches)
        self._budget, self._with_source, self.compute_dtype = Budget(positions), with_source, compute_dtype
        self._new_weight = new_weight or (lambda name: weight_of(layers[name]).detach())
        self._stack = ExitStack()
        self._reached: set[str] = set()
        self.first: Inputs = {}
        self.groups: list[Group] = []
        self.rows = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            first = next(self._batches, None)
            if first is None:
                raise UsageError("the calibration data is empty", hint="give some rows")
            self.first, self.groups = first, find_groups(self._model, self._layers, one_row(first))
            self._lockstep = Lockstep(self._model, self._layers, self.groups, self.compute_dtype)
            stack.enter_context(self._lockstep.opened(self._new_weight))
            self._start(first)
            self._stack = stack.pop_all()
        return self

    @property
    def positions(self) -> int:
        """How many were read."""
        return self._budget.seen

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def __iter__(self) -> Iterator[Group]:
        while (group := self._lockstep.next_group()) is not None:
            self._reached.update(group.names)
            yield group
            self._lockstep.release(group)

    def arrived(self, group: Group) -> Iterator[Arrived]:
        """What each batch brings to the group at which the walk is."""
        return arrivals(self._lockstep.waiting(group))

    def unreached(self) -> list[str]:
        """After the walk: layers to which no batch came, such as an expert, or a head for another task."""
        return [name for name in self._layers if name not in self._reached]

    def _start(self, batch: Inputs | None) -> None:
        """Run batches up to their first layer until there are enough positions."""
        while batch is not None:
            if self._with_source:
                self._lockstep.start(batch, new=False)
            stream = self._lockstep.start(batch, new=True)
            self._budget.add(batch, _positions(stream))
            self.rows += row_count(batch)
            batch = None if self._budget.met else next(self._batches, None)


def _positions(stream: Stream) -> int:
    return sum(len(arrived.x) for arrived in arrivals([stream]))
