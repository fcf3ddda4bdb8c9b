"""The way through a model, layer by layer: what a calibrated compressor needs around its own algorithm."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, Self

import torch
from torch import Tensor, nn

from leptonsdk.calibration.inputs import Inputs, row_count
from leptonsdk.calibration.streams import Arrived, Group, Lockstep, Stream, arrivals, find_groups
from leptonsdk.errors import UsageError
from leptonsdk.quantization import weight_of

_DECODER_SHARE = 16  # of the positions, the part that an encoder-decoder's decoder must have seen, at least


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
        positions: How many were read.
        rows: In how many rows of the data.

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
        self._wanted, self._with_source, self.compute_dtype = positions, with_source, compute_dtype
        self._new_weight = new_weight or (lambda name: weight_of(layers[name]).detach())
        self._stack = ExitStack()
        self._reached: set[str] = set()
        self.first: Inputs = {}
        self.groups: list[Group] = []
        self.positions = self.rows = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            first = next(self._batches, None)
            if first is None:
                raise UsageError("the calibration data is empty", hint="give some rows")
            self.first, self.groups = first, find_groups(self._model, self._layers, _one_row(first))
            self._lockstep = Lockstep(self._model, self._layers, self.groups, self.compute_dtype)
            stack.enter_context(self._lockstep.opened(self._new_weight))
            self._start(first)
            self._stack = stack.pop_all()
        return self

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
        decoded = 0.0
        while batch is not None:
            if self._with_source:
                self._lockstep.start(batch, new=False)
            stream = self._lockstep.start(batch, new=True)
            self.positions += _positions(stream)
            self.rows += row_count(batch)
            decoded += _decoded(batch)
            enough = self.positions >= self._wanted and decoded * _DECODER_SHARE >= self._wanted
            batch = None if enough else next(self._batches, None)


def _positions(stream: Stream) -> int:
    return sum(len(arrived.x) for arrived in arrivals([stream]))


def _decoded(inputs: Inputs) -> float:
    """Positions of an encoder-decoder's decoder; without one there are always enough.

    Speech has hundreds of frames for each token: frames alone would leave the decoder with a handful of inputs.
    """
    mask, ids = inputs.get("decoder_attention_mask"), inputs.get("decoder_input_ids")
    if isinstance(mask, Tensor):
        return float(mask.sum())
    return ids.numel() if isinstance(ids, Tensor) else math.inf


def _one_row(inputs: Inputs) -> Inputs:
    return {name: value[:1] if isinstance(value, Tensor) else value for name, value in inputs.items()}
