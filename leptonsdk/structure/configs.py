"""Have a model's config say the shapes that the model has now, where it has words for them.

No table of attribute names is kept for this: numbers of the config that may be meant are changed on trial, the model that
the config then builds is made on the meta device, and the change is kept only if everything that it touched became right.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from leptonsdk.errors import UsageError
from leptonsdk.quantization.library_layers import library_method
from leptonsdk.structure.configs_layers import OVERRIDES, layer_moves, uneven
from leptonsdk.structure.configs_parts import NUMBER, Move, counts_heads, integers, parts
from leptonsdk.structure.samples import sample_inputs
from leptonsdk.structure.trials import CANNOT_RUN, outputs_of

# What a config that does not fit its model class raises, in transformers' many ways.
CANNOT_BUILD = (
    StrictDataclassError,
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ImportError,
    RuntimeError,
)
_PLAIN = (bool, int, float, str)
# Widths that are a multiple of the hidden size where a config does not say them (GPT-2).
_UNSAID_WIDTHS = ("n_inner", "intermediate_size", "ffn_dim")
_BY_TORCH = frozenset({"in_features", "out_features", "nf", "nx", "training"})


def fit_config(model: Any) -> bool:
    """Change a shrunk model's config so that it builds the shapes that the model has, as far as it can say them.

    A config can say what is the same in all layers: the width of feed-forward networks, and in some architectures heads
    (Llama, ViT), in others not (BERT's head size is hidden size by heads). What differs from layer to layer it can say where its
    architecture reads it by layer: from a list (Gemma 3n's widths), or from transformers' ``per_layer_config``.

    Returns:
        Whether the config now says everything, so that plain ``from_pretrained`` loads the saved model.
    """
    if library_method(model) is not None:
        return False
    built = _layout(build(model))
    tried = True
    while tried:
        tried = False
        for move, pairs in _moves(model, built):
            if (better := _try(model, built, move, pairs)) is not None:
                built, tried = better, True
                break
    own = _layout(model)
    return all(own.get(key) == value for key, value in built.items() if isinstance(value, tuple))


def fit_depth(model: Any, old: int, keep: Sequence[int]) -> bool:
    """Have the config say how many blocks are left, and of which kinds, after some of ``old`` were dropped.

    Returns:
        Whether it builds no blocks any more that were dropped; if it still does, the config is as it was.
    """
    before = [(part, dict(vars(part))) for _, part in parts(model.config)]
    own = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    built = _layout(build(model))
    for path, part in parts(model.config):
        lists: Move = {}
        for key, value in vars(part).items():
            if "layer" in key and isinstance(value, list | tuple) and len(value) == old:
                lists[path, key] = [value[i] for i in keep]
        counts = [key for key, value in integers(part) if value == old]
        # One number may stand for both stacks of an encoder-decoder, or each stack may have its own.
        for key in counts:
            if (better := _try(model, built, {(path, key): len(keep), **lists}, {(old, len(keep))})) is not None:
                built = better
    fits = own >= {key for key, value in built.items() if isinstance(value, tuple)}
    if not fits:
        _restore(before)
    return fits


def build(model: Any, config: Any = None) -> nn.Module:
    """The model that a config builds once it was saved and loaded, on the meta device; default: a model's own config."""
    values = (config or model.config).to_dict()
    values.pop("quantization_config", None)
    read = type(model.config).from_dict(values)
    with torch.device("meta"):
        built: nn.Module = type(model)._from_config(read)
    return built


@dataclass(frozen=True)
class _Number:
    """A plain attribute of a module."""

    value: Any


def _layout(model: nn.Module) -> dict[str, Any]:
    """A model's shapes (tuples, by parameter) and plain attributes (by module and attribute) that its config decides."""
    found: dict[str, Any] = {
        name: tuple(parameter.shape) for name, parameter in model.named_parameters(remove_duplicate=False)
    }
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, _PLAIN) and not key.startswith("_") and key not in _BY_TORCH:
                found[f"{name}:{key}"] = _Number(value)
    return found


def _moves(model: Any, built: Mapping[str, Any]) -> Iterator[tuple[Move, set[tuple[int, int]]]]:
    """Changes that may be right, with the sizes that they would change: of all layers alike first, then of each its own."""
    own = _layout(model)
    for old, new in _ratios(built, own):
        for move in _width_moves(model, old, new):
            yield move, {(old, new)}
    for by_layer in uneven(built, own):
        for move in layer_moves(model.config, by_layer):
            yield move, set(by_layer)


def _ratios(built: Mapping[str, Any], own: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Sizes in the config's model that are another, the same in all layers, in the model."""
    changes: dict[str, set[tuple[tuple[int, ...], tuple[int, ...]]]] = {}
    for key, shape in built.items():
        if isinstance(shape, tuple) and isinstance(own.get(key), tuple) and len(own[key]) == len(shape):
            changes.setdefault(NUMBER.sub("*", key), set()).add((shape, own[key]))
    found: dict[tuple[int, int], None] = {}
    for pairs in changes.values():
        if len(pairs) == 1:
            (pair,) = pairs
            found |= {(old, new): None for old, new in zip(*pair, strict=True) if old != new}
    return list(found)


def _width_moves(model: Any, old: int, new: int) -> Iterator[Move]:
    """Changes of a config that may turn one width into another: the width itself, or numbers of heads by the same ratio."""
    for path, part in parts(model.config):
        heads: Move = {}
        for key, value in integers(part):
            if value == old:
                yield {(path, key): new}
            elif counts_heads(key) and value > 1 and old % value == 0 and value * new % old == 0:
                heads[path, key] = value * new // old
        for key in (key for key, value in vars(part).items() if value is None and key in _UNSAID_WIDTHS):
            yield {(path, key): new}
        if not heads:
            continue
        for place, value in heads.items():
            yield {place: value}
        # Grouped-query attention has two numbers; and where the head size is not said, it follows from the heads.
        sizes = {vars(m).get("head_dim") for m in model.modules()} - {None}
        yield heads
        if len(sizes) == 1:
            yield {**heads, (path, "head_dim"): next(iter(sizes))}


def _try(model: Any, built: dict[str, Any], move: Move, pairs: Iterable[tuple[int, int]]) -> dict[str, Any] | None:
    """Change a model's config if all that it touches becomes right; the layout that it then builds, else None.

    A module's number that the removal did not know is right too where it was the old one: it becomes what the config builds.
    """
    config = copy.deepcopy(model.config)
    renamed = {
        *pairs,
        *((_value(config, place), value) for place, value in move.items() if isinstance(value, int)),
    }
    _apply(config, move)
    try:
        if hasattr(config, "validate"):
            config.validate()  # it could not be saved otherwise: Llama's heads must divide its hidden size
        skeleton = build(model, config)
    except CANNOT_BUILD:
        return None
    after, own = _layout(skeleton), _layout(model)
    touched = [key for key in built | after if built.get(key) != after.get(key)]
    stale = []
    for key in touched:
        if own.get(key) == after.get(key):
            continue
        ours, theirs = own.get(key), after.get(key)
        if not (isinstance(ours, _Number) and isinstance(theirs, _Number) and (ours.value, theirs.value) in renamed):
            return None
        if "head" in key.rpartition(":")[2] and not counts_heads(key):
            return None
        stale.append(key)
    if not any(":" not in key for key in touched):
        return None
    if any(key == OVERRIDES for _, key in move) and not _runs(model, move):
        return None
    for key in stale:
        name, _, attribute = key.rpartition(":")
        setattr(model.get_submodule(name), attribute, after[key].value)
    _apply(model.config, move)
    _update_copies(model, skeleton, move)
    return after


def _runs(model: Any, move: Move) -> bool:
    """Whether a model still runs after a change: a forward may read what its config then says for single layers only."""
    before = [(part, dict(vars(part))) for _, part in parts(model.config)]
    _apply(model.config, move)
    try:
        outputs_of(model, sample_inputs(model))
    except (*CANNOT_RUN, UsageError):
        return False
    finally:
        _restore(before)
    return True


def _restore(before: Sequence[tuple[Any, Mapping[str, Any]]]) -> None:
    """Put a config's parts back as they were."""
    for part, values in before:
        vars(part).clear()
        vars(part).update(values)


def _update_copies(model: Any, skeleton: nn.Module, move: Move) -> None:
    """Change the copies of the config that modules hold (T5's two stacks) as the new skeleton has them."""
    known = {id(part) for _, part in parts(model.config)}
    old = {_value(model.config, place) for place in move if isinstance(move[place], int)}
    for name, module in model.named_modules():
        config, fresh = getattr(module, "config", None), None
        if config is None or id(config) in known or not hasattr(config, "to_dict"):
            continue
        known.add(id(config))
        fresh = getattr(skeleton.get_submodule(name), "config", None)
        for key, value in vars(fresh).items() if fresh is not None else ():
            if isinstance(value, int) and vars(config).get(key) in old and vars(config)[key] != value:
                setattr(config, key, value)


def _apply(config: Any, move: Move) -> None:
    for (path, key), value in move.items():
        part = config
        for step in path:
            part = getattr(part, step)
        setattr(part, key, value)


def _value(config: Any, place: tuple[tuple[str, ...], str]) -> Any:
    for step in place[0]:
        config = getattr(config, step)
    return vars(config).get(place[1])
