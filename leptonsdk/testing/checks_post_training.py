"""Checks of post-training compressors: calibration, errors, interruption, and being better than the naive way."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leptonsdk.checkpoint import Checkpoint
from leptonsdk.errors import UsageError
from leptonsdk.quantization.layers import linear_layers, weight_of
from leptonsdk.quantization.rtn import round_to_nearest
from leptonsdk.quantization.scheme import Scheme
from leptonsdk.quantization.tensor import QuantizedTensor
from leptonsdk.structure import outputs_of
from leptonsdk.testing.bench import (
    compress,
    differing,
    error_of,
    expect,
    home,
    is_lepton,
    listed,
    result,
    skip_unless,
    tensors,
)
from leptonsdk.testing.check import CheckFailed, check
from leptonsdk.testing.checks_errors import places
from leptonsdk.testing.interrupting import Interrupting
from leptonsdk.testing.models import tiny_batches, tiny_checkpoint
from leptonsdk.testing.observing import condition
from leptonsdk.testing.pruned import layer_inputs
from leptonsdk.testing.watching import changed

_DRAWS = 3

_MOVED = 0.4  # rounding alone moves a row or column less


@check(
    "refuses-without-calibration",
    "where calibration is required and none is given, it raises a UsageError",
    "compressor",
    when=lambda plugin: plugin.capabilities.calibration == "required",
)
def refuses_without_calibration(plugin: type[Any], config: Mapping[str, Any]) -> None:
    error = error_of(lambda: compress(plugin, config, tiny_checkpoint(home(plugin, config)), batches=None))
    said = "took the model all the same" if error is None else f"raised {type(error).__name__}: {error}"
    hint = "read it through `context.calibration(batch_size)`, which says what to do"
    expect(isinstance(error, UsageError), f"without calibration data it {said}", plugin.name, hint)


@check(
    "errors-are-clear",
    "what it cannot do is told by a LeptonError: data without rows, targets that mean no layer",
    "compressor",
)
def errors_are_clear(plugin: type[Any], config: Mapping[str, Any]) -> None:
    def nothing(batch_size: int) -> Iterator[Mapping[str, Tensor]]:
        return iter(())

    name = home(plugin, config)
    cases: dict[str, tuple[Mapping[str, Any], dict[str, Any]]] = {}
    if plugin.capabilities.calibration != "never":
        cases["calibration data without a row"] = (config, {"batches": nothing})
    if "targets" in plugin.config_class.model_fields:
        cases["targets that mean no layer"] = ({**config, "targets": ("no_such_layer",)}, {})
    skip_unless(cases, "it reads no data and has no targets")
    for what, (fields, changes) in cases.items():
        error = error_of(partial(compress, plugin, fields, tiny_checkpoint(name), **changes))
        hint = "raise a UsageError that says what, where and what to do"
        expect(is_lepton(error), f"with {what}: {type(error).__name__}: {error}", plugin.name, hint)


@check(
    "interrupted-leaves-no-trace",
    "interrupted in the middle, it leaves the input as it was, and a second run gives what an undisturbed one gives",
    "compressor",
)
def interrupted_leaves_no_trace(plugin: type[Any], config: Mapping[str, Any]) -> None:
    name = home(plugin, config)
    undisturbed = tensors(result(plugin, config))
    for at in places(plugin, config, name):
        checkpoint, where = tiny_checkpoint(name), f"{plugin.name}, interrupted at torch call {at}"
        before, weights = condition(checkpoint), tensors(checkpoint)
        with tempfile.TemporaryDirectory() as scratch:
            with Interrupting(at):
                error_of(partial(compress, plugin, config, checkpoint, Path(scratch)))
            harmed = changed(before, condition(checkpoint)) + differing(weights, tensors(checkpoint))
            expect(not harmed, f"the input is changed: {listed(harmed)}", where, "work on a copy")
            again = tensors(compress(plugin, config, checkpoint, Path(scratch)))
        if not plugin.capabilities.deterministic:
            continue
        apart = differing(undisturbed, again)
        hint = "keep nothing half-done in the class, the scratch folder or the input"
        expect(not apart, f"a second run gives other weights: {listed(apart)}", where, hint)


@check(
    "better-than-naive",
    "layers' outputs change no more than by plain min-max rounding, or by pruning at random",
    "compressor",
    when=lambda plugin: bool(plugin.capabilities.effects & {"quantizes", "sparsifies"}),
)
def better_than_naive(plugin: type[Any], config: Mapping[str, Any]) -> None:
    name = home(plugin, config)
    before, after = tiny_checkpoint(name), result(plugin, config)
    pairs = _changed_layers(before, after.dequantized())
    skip_unless(pairs, "it leaves no linear layer of the same shape changed")
    quantizes = "quantizes" in plugin.capabilities.effects
    naive = {n: w for n in pairs if (w := (_rounded(pairs[n][0], after, n) if quantizes else None)) is not None}
    skip_unless(naive or not quantizes, "its integers are a library's own: there is no plain rounding like it")
    inputs = layer_inputs(before, pairs)
    ours = sum(_error(inputs[n], old, new) for n, (old, new) in pairs.items() if n in inputs)
    if quantizes:
        theirs, way = sum(_error(inputs[n], pairs[n][0], naive[n]) for n in pairs if n in inputs), "min-max rounding"
    else:
        theirs, way = sum(_random_error(inputs[n], *pairs[n]) for n in pairs if n in inputs), "pruning at random"
    moved = bool(naive) and _moves_scale(pairs)
    # Written so that NaN passes: another check tells of it.
    if ours > theirs * (1 + 1e-6) and not (moved and _closer_as_a_whole(before, after, naive)):
        raise CheckFailed(
            f"the squared error of the layers' outputs is {ours:.4g}, of {way} it is {theirs:.4g}",
            where=f"{plugin.name} on {name}",
            hint="check the sign of its scores, the axis of its scales, and that columns are in the order of the weight's",
        )


def _moves_scale(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> bool:
    """Whether rows or columns are other multiples of what they were: one that moves scale from layer to layer (AWQ) leaves other
    weights that read other inputs, and its layers cannot be compared one by one.
    """
    multiples = [
        (new * old).sum(axis) / old.square().sum(axis).clamp_min(1e-12)
        for old, new in pairs.values()
        for axis in (0, 1)
    ]
    return any(bool((multiple - 1).abs().gt(_MOVED).any()) for multiple in multiples)


def _closer_as_a_whole(before: Checkpoint, after: Checkpoint, naive: Mapping[str, Tensor]) -> bool:
    """Whether the model's outputs are closer than with every layer rounded plainly."""
    plain = copy.deepcopy(before.model)
    with torch.no_grad():
        for name, weight in naive.items():
            weight_of(plain.get_submodule(name)).copy_(weight)
    ours, theirs = 0.0, 0.0
    for batch in tiny_batches(before)(8):
        expected, found, rounded = (outputs_of(model, batch) for model in (before.model, after.model, plain))
        ours += sum(float((a - b).square().sum()) for a, b in zip(found, expected, strict=True))
        theirs += sum(float((a - b).square().sum()) for a, b in zip(rounded, expected, strict=True))
    return ours <= theirs


def _changed_layers(before: Checkpoint, after: Checkpoint) -> dict[str, tuple[Tensor, Tensor]]:
    old, new = linear_layers(before.model), linear_layers(after.model)
    pairs = {n: (weight_of(old[n]).detach(), weight_of(new[n]).detach()) for n in old if n in new}
    return {n: (a, b) for n, (a, b) in pairs.items() if a.shape == b.shape and not torch.equal(a, b)}


def _rounded(weight: Tensor, after: Checkpoint, name: str) -> Tensor | None:
    tensor = after.quantized.get(name)
    if tensor is None:
        return None
    scheme = tensor.scheme
    if not isinstance(tensor, QuantizedTensor) or not isinstance(scheme, Scheme):
        groups = {} if scheme.group_size is None else {"group_size": scheme.group_size}
        scheme = Scheme.resolve(
            None, bit_width=scheme.num_bits, symmetric=True, group_size=groups.get("group_size", -1)
        )
    return round_to_nearest(weight, scheme, observer="minmax", negative_scales=False).dequantize(weight.dtype)


def _error(inputs: Tensor, old: Tensor, new: Tensor) -> float:
    return float(((inputs @ (new - old).t()) ** 2).sum())


def _random_error(inputs: Tensor, old: Tensor, new: Tensor) -> float:
    """The mean error of a few random masks with as many zeros in each row."""
    zeros = (new == 0).sum(dim=1)
    generator, errors = torch.Generator().manual_seed(0), []
    for _ in range(_DRAWS):
        ranks = torch.rand(old.shape, generator=generator).argsort(dim=1).argsort(dim=1)
        errors.append(_error(inputs, old, old * (ranks >= zeros[:, None])))
    return sum(errors) / _DRAWS
