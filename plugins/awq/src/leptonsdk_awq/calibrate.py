"""From a checkpoint and calibration data to a rescaled, quantized checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from leptonsdk.calibration import (
    Budget,
    Gram,
    Inputs,
    calibration_inputs,
    layers_by_input,
    one_row,
    watch_inputs,
)
from leptonsdk.checkpoint import Checkpoint
from leptonsdk.errors import UsageError
from leptonsdk.hooks import StepContext
from leptonsdk.quantization import QuantizedTensor, layers_to_quantize, round_to_nearest, weight_of
from leptonsdk.structure import sample_inputs
from leptonsdk_awq.calibrate_folds import Fold, apply_fold, find_folds
from leptonsdk_awq.config import AWQConfig
from leptonsdk_awq.solve import Solution, candidates, solve


class Statistics:
    """What is kept of a layer's inputs: ``X^T X``, and each channel's summed size ``[in]``."""

    def __init__(self, x: Tensor) -> None:
        self.gram, self._sizes = Gram(x.shape[1], x.device), torch.zeros(x.shape[1], device=x.device)

    def add(self, x: Tensor) -> None:
        self.gram.add(x)
        self._sizes += x.float().abs().sum(0)

    def size(self) -> Tensor:
        """Mean absolute value of each channel ``[in]``."""
        return self._sizes / max(self.gram.positions, 1)


def compress(checkpoint: Checkpoint, config: AWQConfig, context: StepContext) -> Checkpoint:
    """See `leptonsdk_awq.AWQ`. Everything is done on a copy of the model."""
    scheme = config.resolve()
    meant = (scheme, config.targets, config.ignore, checkpoint.quantized)
    layers_to_quantize(checkpoint.model, *meant)  # errors come before the copy
    batches = calibration_inputs(checkpoint.model, context, config.batch_size)
    context.progress(0, 1, "reading calibration data")
    first = next(batches, None)
    if first is None:
        raise UsageError("the calibration data is empty", hint="give some rows")
    model = copy.deepcopy(checkpoint.model)
    layers = {layer.name: layer.module for layer in layers_to_quantize(model, *meant)}
    groups = layers_by_input(model, layers, one_row(first))
    folds = {fold.consumers: fold for fold in find_folds(model, layers, _small_batches(model, first))}
    groups = _regrouped(groups, folds)
    chosen = _enough(model, layers[groups[0][0]], first, batches, config) if groups else []
    found: dict[str, QuantizedTensor] = {}
    done = 0
    # From the last layer to the first, so that a layer's rows have been divided before its own columns are looked at.
    for part in _parts(layers, groups[::-1], config.memory):
        context.progress(done, len(groups), "watching layers' inputs")
        statistics = _watch(model, {names[0]: layers[names[0]] for names in part}, chosen)
        for names in part:
            context.progress(done, len(groups), names[0])
            done += 1
            if names[0] not in statistics:  # an expert that no position was sent to
                continue
            solution = _solve(layers, names, folds.get(names), statistics.pop(names[0]), checkpoint, config)
            found.update(zip(names, solution.tensors, strict=True))
            if (fold := folds.get(names)) is not None:
                apply_fold(model, fold, solution.scale)
    for name in layers.keys() - found.keys():  # never called in calibration: an expert, a head for another task
        found[name] = round_to_nearest(weight_of(layers[name]), scheme, scale_dtype=checkpoint.scale_dtype)
    context.progress(len(groups), max(len(groups), 1), "done")
    return checkpoint.with_integers({name: found[name] for name in layers}, model)


def _solve(
    layers: Mapping[str, nn.Module],
    names: tuple[str, ...],
    fold: Fold | None,
    statistics: Statistics,
    checkpoint: Checkpoint,
    config: AWQConfig,
) -> Solution:
    weights = [weight_of(layers[name]).detach().float() for name in names]
    scales: list[Tensor] = []
    if fold is not None:
        scales = candidates(statistics.size(), weights, config.resolve(), config.grid, fold.share)
    try:
        return solve(weights, statistics.gram.mean(), config.resolve(), scales, checkpoint.scale_dtype)
    except UsageError as error:
        raise UsageError(error.message, where=f"layer '{names[0]}'", hint=error.hint) from error


def _small_batches(model: Any, first: Inputs) -> list[Inputs]:
    """A batch to try folds on, made up where that can be done, and a row of the calibration data."""
    try:
        return [sample_inputs(model), one_row(first)]
    except UsageError:
        return [one_row(first)]


def _regrouped(groups: Sequence[tuple[str, ...]], folds: Mapping[tuple[str, ...], Fold]) -> list[tuple[str, ...]]:
    """Groups in the order of their calls, with a fold's consumers as one group."""
    owner = {name: names for names in folds for name in names}
    found: dict[tuple[str, ...], None] = {}
    for names in groups:
        free = tuple(name for name in names if name not in owner)
        for group in (*(owner[name] for name in names if name in owner), free):
            if group:
                found[group] = None
    return list(found)


def _enough(model: Any, layer: nn.Module, first: Inputs, rest: Iterator[Inputs], config: AWQConfig) -> list[Inputs]:
    """Batches until the first layer has seen enough positions, and the decoder of an encoder-decoder its share of them."""
    chosen: list[Inputs] = []
    budget = Budget(config.calibration_tokens)
    batch: Inputs | None = first
    while batch is not None:
        budget.add(batch, _positions(model, layer, batch))
        chosen.append(batch)
        batch = None if budget.met else next(rest, None)
    return chosen


def _positions(model: Any, layer: nn.Module, batch: Inputs) -> int:
    """How many a layer reads of a batch."""
    seen: list[int] = []
    watch_inputs(model, {"": layer}, batch, lambda _, x: seen.append(len(x)))
    return sum(seen)


def _parts(
    layers: Mapping[str, nn.Module], groups: Sequence[tuple[str, ...]], memory: float
) -> Iterator[list[tuple[str, ...]]]:
    """Groups in order, as many at a time as the memory (GB) has room for."""
    part: list[tuple[str, ...]] = []
    used = 0
    for names in groups:
        need = 4 * weight_of(layers[names[0]]).shape[1] ** 2
        if part and used + need > memory * 1e9:
            yield part
            part, used = [], 0
        part.append(names)
        used += need
    if part:
        yield part


def _watch(model: Any, layers: Mapping[str, nn.Module], batches: Sequence[Inputs]) -> dict[str, Statistics]:
    found: dict[str, Statistics] = {}

    def see(name: str, x: Tensor) -> None:
        if name not in found:
            found[name] = Statistics(x)
        found[name].add(x)

    for batch in batches:
        watch_inputs(model, layers, batch, see)
    return found
