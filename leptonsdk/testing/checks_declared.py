"""Checks of compressors: effects, zeros, shapes, sparsity, bits and formats are what they declare, in the saved files."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from leptonsdk.quantization.formats import quantization_section
from leptonsdk.quantization.layers import linear_layers, weight_of
from leptonsdk.quantization.library_layers import library_method
from leptonsdk.testing.bench import compress_alone, expect, home, in_files, listed, made, result, skip_unless, weights
from leptonsdk.testing.check import COMPRESSORS, check
from leptonsdk.testing.models import tiny_checkpoint
from leptonsdk.testing.pruned import half_zero


@check("effects-are-true", "what it declares as its effects is seen in the checkpoints that it makes", *COMPRESSORS)
def effects_are_true(plugin: type[Any], config: Mapping[str, Any]) -> None:
    declared = plugin.capabilities.effects
    skip_unless(declared, "it declares no effects")
    seen = _effects(plugin, config)
    hint = "do it, or take the effect out of its capabilities"
    expect(bool(declared & seen), f"it declares {listed(sorted(declared))}, and does nothing", plugin.name, hint)
    for other in plugin.examples:  # one config prunes, another removes
        if declared <= seen:
            return
        seen |= _effects(plugin, other)
    missing = sorted(declared - seen)
    expect(not missing, f"it declares, and does with no config: {listed(missing)}", plugin.name, hint)


def _effects(plugin: type[Any], config: Mapping[str, Any]) -> set[str]:
    """The effects that a compressor's result shows."""
    before, after = tiny_checkpoint(home(plugin, config)), result(plugin, config)
    old, new = (weights(one).values() for one in (before, after))
    fewer = sum(value.numel() for value in new) < sum(value.numel() for value in old)
    zeros = [sum(int((value == 0).sum()) for value in one) for one in (old, new)]
    signs = {
        "quantizes": bool(after.quantized) or library_method(after.model) is not None,
        "calibrates": bool(after.input_scales),
        "sparsifies": fewer or zeros[1] > zeros[0],  # zeros may have been removed for good
        "shrinks": fewer,
        "distills": True,  # nothing in a checkpoint could tell
    }
    return {effect for effect, there in signs.items() if there}


@check(
    "keeps-zeros",
    "weights that are zero before are zero afterwards",
    *COMPRESSORS,
    when=lambda plugin: plugin.capabilities.preserves_zeros,
)
def keeps_zeros(plugin: type[Any], config: Mapping[str, Any]) -> None:
    before = half_zero(tiny_checkpoint(home(plugin, config)))
    lost = filled(weights(before), weights(compress_alone(plugin, config, before)))
    hint = "multiply by the mask `weight != 0` at the end, or take `preserves_zeros` out of its capabilities"
    expect(not lost, f"zeros of a pruned model are no longer zero: {listed(lost)}", plugin.name, hint)


def filled(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of weights of the same shape in which something that was zero is not."""
    shared = (name for name in before if name.endswith("weight") and name in after)
    return [
        name
        for name in shared
        if before[name].shape == after[name].shape and bool((after[name][before[name] == 0] != 0).any())
    ]


@check(
    "keeps-shapes",
    "every weight has the shape that it had, in the files too",
    *COMPRESSORS,
    when=lambda plugin: plugin.capabilities.preserves_shapes or "shrinks" in plugin.capabilities.effects,
)
def keeps_shapes(plugin: type[Any], config: Mapping[str, Any]) -> None:
    skip_unless("shrinks" not in made(plugin, config).effects(), "it shrinks with this config")
    before, after = weights(tiny_checkpoint(home(plugin, config))), weights(in_files(plugin, config))
    other = sorted(name for name in before if name not in after or before[name].shape != after[name].shape)
    hint = "declare `preserves_shapes=False`, and the effect `shrinks`"
    expect(not other, f"other shapes, or gone: {listed(other)}", plugin.name, hint)


@check("sparsity-as-declared", "the saved files have as many zeros as `sparsity()` says", *COMPRESSORS)
def sparsity_as_declared(plugin: type[Any], config: Mapping[str, Any]) -> None:
    declared = made(plugin, config).sparsity()
    skip_unless(declared is not None, "its `sparsity()` states no share for this config")
    assert declared is not None
    before, after = tiny_checkpoint(home(plugin, config)), in_files(plugin, config)
    old, new = weights(before), weights(after)
    layers = {f"{name}.weight": weight_of(layer).shape[1] for name, layer in linear_layers(before.model).items()}
    pruned = [name for name in layers if name in new and int((new[name] == 0).sum()) > int((old[name] == 0).sum())]
    expect(bool(pruned) or declared == 0, "no layer has more zeros than before", plugin.name)
    zeros, count = (sum(f(new[name]) for name in pruned) for f in (lambda w: int((w == 0).sum()), lambda w: w.numel()))
    slack = 1 / min((layers[name] for name in pruned), default=1)  # a row's share is a whole number of weights
    found = zeros / max(count, 1)
    expect(
        abs(found - declared) <= slack,
        f"{found:.3f} of the weights of {len(pruned)} layers are zero in the files, declared is {declared:.3f}",
        plugin.name,
        "count what is kept, round once, and save what the masks left",
    )


@check("bits-as-declared", "the saved files hold integers of the scheme that `scheme()` says", *COMPRESSORS)
def bits_as_declared(plugin: type[Any], config: Mapping[str, Any]) -> None:
    scheme = made(plugin, config).scheme()
    skip_unless(scheme is not None, "its `scheme()` states none for this config")
    assert scheme is not None
    stored = in_files(plugin, config).quantized
    expect(bool(stored), f"declared is {scheme.name}, and the files hold no integers", plugin.name)
    other = {
        name: tensor.scheme
        for name, tensor in stored.items()
        if (tensor.scheme.num_bits, tensor.scheme.group_size) != (scheme.num_bits, scheme.group_size)
    }
    name, found = next(iter(other.items()), ("", scheme))
    expect(
        not other,
        f"declared are {scheme.num_bits} bits in groups of {scheme.group_size}, in the files stand {found.num_bits} in "
        f"groups of {found.group_size}",
        f"{plugin.name}, layer '{name}'",
        "return from `scheme()` what `compress` quantizes with",
    )


@check("formats-as-declared", "what it leaves is saved in a format that it declares", *COMPRESSORS)
def formats_as_declared(plugin: type[Any], config: Mapping[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        result(plugin, config).save(folder)
        written = quantization_section(folder).get("quant_method", "safetensors")
        weighty = sorted(path.name for path in Path(folder).iterdir() if path.suffix in (".bin", ".pt", ".pth", ".pkl"))
    declared = plugin.capabilities.formats
    hint = f"declare formats={(*declared, written)!r}"
    expect(written in declared, f"the saved folder is {written}, declared: {', '.join(declared)}", plugin.name, hint)
    expect(not weighty, f"weights are in {listed(weighty)}, not in safetensors", plugin.name)
