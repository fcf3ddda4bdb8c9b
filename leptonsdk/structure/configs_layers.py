"""How a config says what differs from layer to layer: a list with a value for each, or transformers' ``per_layer_config``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from leptonsdk.structure.configs_parts import NUMBER, Move, counts_heads, integers, parts

OVERRIDES = "per_layer_config"


def uneven(built: Mapping[str, Any], own: Mapping[str, Any]) -> list[tuple[tuple[int, int], ...]]:
    """Sizes that the config's model has otherwise, in each layer its own: (old, new) of the layers of a stack, in their order."""
    stacks: dict[tuple[str, int], dict[int, tuple[int, int]]] = {}
    for key, shape in built.items():
        numbers, after = NUMBER.findall(key), own.get(key)
        if isinstance(shape, tuple) and isinstance(after, tuple) and len(after) == len(shape) and len(numbers) == 1:
            for axis, pair in enumerate(zip(shape, after, strict=True)):
                stacks.setdefault((NUMBER.sub("*", key), axis), {})[int(numbers[0])] = pair
    found = {
        tuple(stack[i] for i in sorted(stack)): None
        for stack in stacks.values()
        if sorted(stack) == [*range(len(stack))]
    }
    return [pairs for pairs in found if any(old != new for old, new in pairs)]


def layer_moves(config: Any, pairs: Sequence[tuple[int, int]]) -> Iterator[Move]:
    """Changes of a config that may give each layer its own width, or number of heads by the same ratio."""
    old, new = [before for before, _ in pairs], [after for _, after in pairs]
    for path, part in parts(config):
        for key, value in vars(part).items():
            if isinstance(value, list | tuple) and list(value) == old:
                yield {(path, key): new}
        if getattr(part, "num_hidden_layers", None) != len(pairs) or not hasattr(part, OVERRIDES):
            continue
        now = [dict(integers(layer)) for layer in getattr(part, OVERRIDES)]
        heads: dict[str, list[int]] = {}
        for key in now[0]:
            values = [layer.get(key, 0) for layer in now]
            if values == old:
                yield {(path, OVERRIDES): _overrides(part, {key: new})}
            elif counts_heads(key) and all(
                v > 1 and o % v == 0 == v * n % o for v, (o, n) in zip(values, pairs, strict=True)
            ):
                heads[key] = [v * n // o for v, (o, n) in zip(values, pairs, strict=True)]
        for key, counts in heads.items():
            yield {(path, OVERRIDES): _overrides(part, {key: counts})}
        if len(heads) > 1:  # grouped-query attention has two numbers
            yield {(path, OVERRIDES): _overrides(part, heads)}


def _overrides(part: Any, values: Mapping[str, Sequence[int]]) -> dict[int, dict[str, Any]]:
    """A config's overrides with more of them."""
    found = {int(i): dict(layer) for i, layer in (part.to_dict().get(OVERRIDES) or {}).items()}
    for key, by_layer in values.items():
        for i, value in enumerate(by_layer):
            found.setdefault(i, {})[key] = value
    return found
