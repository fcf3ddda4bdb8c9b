"""Checks of compressors, post-training and training ones: any architecture, only what is meant, and the same elsewhere."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from leptonsdk.checkpoint import Checkpoint, load_checkpoint
from leptonsdk.errors import UsageError
from leptonsdk.quantization.layers import linear_layers
from leptonsdk.quantization.library_layers import library_method
from leptonsdk.structure.shapes import FILE as SHAPES
from leptonsdk.testing.alone import run_model, start
from leptonsdk.testing.bench import (
    accepted,
    compress,
    compress_alone,
    differing,
    expect,
    forward_hooks,
    home,
    listed,
    made,
    main_output,
    result,
    same,
    skip_unless,
    tensors,
    weights,
)
from leptonsdk.testing.check import COMPRESSORS, CheckFailed, check
from leptonsdk.testing.models import ARCHITECTURES, tiny_checkpoint, tiny_inputs

_EXACT = 1e-5  # of outputs, between two processes
_TIED = "llama"


@check("runs-on-every-architecture", "each of eight architectures works, or is refused with a UsageError", *COMPRESSORS)
def runs_on_every_architecture(plugin: type[Any], config: Mapping[str, Any]) -> None:
    home(plugin, config)  # one at least
    for name in ARCHITECTURES:
        try:
            result(plugin, config, name)
        except UsageError:
            continue
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            hint = "ask modules and config what they are before you read them, and raise a UsageError for what cannot be done"
            raise CheckFailed(message, where=f"{plugin.name} on {name}", hint=hint) from error


@check("weights-finite", "every weight that it leaves is a finite number", *COMPRESSORS)
def weights_finite(plugin: type[Any], config: Mapping[str, Any]) -> None:
    for name in accepted(plugin, config):
        state = weights(result(plugin, config, name))
        broken = [key for key, value in state.items() if value.is_floating_point() and not bool(value.isfinite().all())]
        hint = "look for a division by a scale, norm or determinant that can be zero"
        expect(not broken, f"NaN or infinite: {listed(broken)}", f"{plugin.name} on {name}", hint)


@check(
    "deterministic",
    "the same input and seed give the same weights, whatever the global generators are at",
    *COMPRESSORS,
    when=lambda plugin: plugin.capabilities.deterministic,
)
def deterministic(plugin: type[Any], config: Mapping[str, Any]) -> None:
    name = home(plugin, config)
    first = tensors(result(plugin, config))
    torch.manual_seed(1)
    second = tensors(compress(plugin, config, tiny_checkpoint(name)))
    hint = "draw from a generator made from `context.seed`, or declare `deterministic=False`"
    apart = differing(first, second)
    expect(not apart, f"a second run gives other weights: {listed(apart)}", f"{plugin.name} on {name}", hint)


@check(
    "keeps-ties",
    "weights that were shared are shared still",
    *COMPRESSORS,
)
def keeps_ties(plugin: type[Any], config: Mapping[str, Any]) -> None:
    skip_unless(_TIED in accepted(plugin, config), f"it does not take {_TIED}, whose embeddings are tied")
    model = result(plugin, config, _TIED).model
    expect(
        model.get_input_embeddings().weight is model.get_output_embeddings().weight,
        "the output layer's weight is no longer the embedding's",
        f"{plugin.name} on {_TIED}",
        "change a weight in place (`weight.data = ...`, `copy_`), or call `model.tie_weights()` afterwards",
    )


@check("leaves-no-hooks", "the model that it makes has no hooks", *COMPRESSORS)
def leaves_no_hooks(plugin: type[Any], config: Mapping[str, Any]) -> None:
    hooked = forward_hooks(result(plugin, config).model)
    hint = "call `handle.remove()` in a `finally`"
    expect(not hooked, f"hooks are left on {listed(hooked)}", plugin.name, hint)


@check(
    "leaves-modes-alone",
    "the model that it makes is in eval mode, and its weights can be trained as before",
    *COMPRESSORS,
)
def leaves_modes_alone(plugin: type[Any], config: Mapping[str, Any]) -> None:
    before, after = tiny_checkpoint(home(plugin, config)).model, result(plugin, config).model
    training = [name or "the model" for name, module in after.named_modules() if module.training]
    expect(not training, f"in train mode: {listed(training)}", plugin.name, "call `model.eval()`")
    old = {name: parameter.requires_grad for name, parameter in before.named_parameters()}
    moved = [
        name
        for name, parameter in after.named_parameters()
        if parameter.is_floating_point() and old.get(name, True) != parameter.requires_grad
    ]
    if library_method(after) is None:  # transformers freezes what it quantizes
        expect(not moved, f"requires_grad is not as it was: {listed(moved)}", plugin.name, "set it back")


def _has(field: str) -> Any:
    return lambda plugin: field in plugin.config_class.model_fields


def _touched(plugin: type[Any], config: Mapping[str, Any], name: str) -> list[str]:
    """Linear layers of an architecture that a compressor changes, quantizes or takes away by itself."""
    before, after = tiny_checkpoint(name), compress_alone(plugin, config, tiny_checkpoint(name))
    old, new = weights(before), weights(after)
    layers = linear_layers(before.model)
    own = {layer: [key for key in old if key.rpartition(".")[0] == layer] for layer in layers}
    changed = {layer for layer, keys in own.items() if any(k not in new or not same(old[k], new[k]) for k in keys)}
    return sorted(changed | (set(after.quantized) & layers.keys()))


@check("honours-targets", "only the layers that `targets` means are changed", *COMPRESSORS, when=_has("targets"))
def honours_targets(plugin: type[Any], config: Mapping[str, Any]) -> None:
    name = home(plugin, config)
    touched = _touched(plugin, config, name)
    skip_unless(len(touched) > 1, "it changes one layer, or none")
    for meant in (touched[0], touched[-1]):
        try:
            others = [one for one in _touched(plugin, {**config, "targets": (meant,)}, name) if one != meant]
        except UsageError:
            continue  # one layer alone is not enough for it
        hint = "`leptonsdk.quantization.matches` tells whether a layer is meant"
        expect(not others, f"targets are ['{meant}'], and it changed {listed(others)}", plugin.name, hint)


@check("honours-ignore", "layers that `ignore` means are left as they are", *COMPRESSORS, when=_has("ignore"))
def honours_ignore(plugin: type[Any], config: Mapping[str, Any]) -> None:
    name = home(plugin, config)
    touched = _touched(plugin, config, name)
    skip_unless(len(touched) > 1, "it changes one layer, or none")
    given = made(plugin, config).config.ignore
    for left in (touched[0], touched[-1]):
        try:
            still = _touched(plugin, {**config, "ignore": (*given, left)}, name)
        except UsageError:
            continue
        hint = "`leptonsdk.quantization.matches` tells whether a layer is meant"
        expect(left not in still, f"ignore names '{left}', and it was changed", plugin.name, hint)


@check(
    "reloads-without-leptonsdk",
    "saved and loaded by plain from_pretrained in a process without leptonsdk, it computes the same",
    *COMPRESSORS,
)
def reloads_without_leptonsdk(plugin: type[Any], config: Mapping[str, Any]) -> None:
    start()
    for name in accepted(plugin, config):
        checkpoint, where = result(plugin, config, name), f"{plugin.name} on {name}"
        inputs = tiny_inputs(checkpoint)
        with tempfile.TemporaryDirectory() as folder:
            checkpoint.save(folder)
            output, ours = _fresh_output(checkpoint, inputs)
            if (Path(folder) / SHAPES).is_file():  # the config has no words for its shapes
                theirs = main_output(load_checkpoint(folder, task=checkpoint.task).model, inputs)[1]
            else:
                theirs = run_model(Path(folder), inputs, output, where)
            architectures = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")).get("architectures")
        if ours.shape == theirs.shape and not bool(ours.isfinite().all()):
            continue  # another check tells of numbers that are not finite
        apart = float((ours - theirs).abs().max()) if ours.shape == theirs.shape else float("inf")
        hint = f"whatever {architectures} computes with must stand in its weights and its config"
        expect(
            apart <= _EXACT * max(1.0, float(ours.abs().max())), f"reloaded, outputs differ by {apart:.3g}", where, hint
        )


def _fresh_output(checkpoint: Checkpoint, inputs: Mapping[str, torch.Tensor]) -> tuple[str, torch.Tensor]:
    return main_output(copy.deepcopy(checkpoint.model), inputs)  # a forward may repack quantized weights
