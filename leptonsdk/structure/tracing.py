"""Follow the data of a model from linear layer to linear layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from leptonsdk.quantization.layers import linear_layers

# No unit has more layers in front of its last one (query, key and value).
_MOST_SOURCES = 3


@dataclass
class Traced:
    """What one forward shows of a linear layer, over all its calls.

    Attributes:
        inputs: Identities of the tensors that it read.
        sources: Linear layers that its input is made of, without another linear layer in between; None: more than three.
    """

    inputs: list[tuple[Any, ...]] = field(default_factory=list)
    sources: set[str] | None = field(default_factory=set)


@contextmanager
def steady(model: nn.Module) -> Iterator[None]:
    """In eval mode and without a key-value cache, so that a module can run twice on the same inputs."""
    modes = [(module, module.training) for module in model.modules()]
    configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    caches = [(c, c.use_cache) for c in configs.values() if getattr(c, "use_cache", None) is True]
    model.eval()
    for config, _ in caches:
        config.use_cache = False
    try:
        yield
    finally:
        for config, value in caches:
            config.use_cache = value
        for module, mode in modes:
            module.training = mode


@contextmanager
def hooked(handles: list[Any]) -> Iterator[None]:
    """Remove hooks at the end."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def trace(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Traced]:
    """Run the model once and tell, for each linear layer in order of the calls, what its input was made of.

    Every output of a linear layer is replaced by a copy that starts a new autograd graph. The graph of another layer's
    input then ends at exactly those outputs that it was computed from. This needs no gradients of weights.
    """
    traced: dict[str, Traced] = {}
    owner: dict[int, str] = {}
    alive: list[Tensor] = []  # an address identifies a tensor only while it lives

    def hook(name: str) -> Any:
        def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
            x = first_tensor(args, kwargs)
            alive.append(x)
            entry = traced.setdefault(name, Traced())
            entry.inputs.append((x.data_ptr(), tuple(x.shape), x.stride()))
            found = _leaves(x, owner)
            entry.sources = None if found is None or entry.sources is None else entry.sources | found
            leaf = output.detach().requires_grad_()
            alive.append(leaf)
            owner[id(leaf)] = name
            return leaf.clone()  # so that the model may change it in place

        return record

    layers = linear_layers(model)
    handles = [module.register_forward_hook(hook(name), with_kwargs=True) for name, module in layers.items()]
    with hooked(handles), torch.enable_grad():
        model(**inputs)
    return traced


def capture(model: nn.Module, names: set[str], inputs: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Run the model once and keep the arguments (positional, by name) of the first call of some of its modules."""
    kept: dict[str, tuple[Any, Any]] = {}

    def hook(name: str) -> Any:
        def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kept.setdefault(name, fresh((args, kwargs)))

        return record

    handles = [
        model.get_submodule(name).register_forward_pre_hook(hook(name), with_kwargs=True) for name in sorted(names)
    ]
    with hooked(handles), torch.no_grad():
        model(**inputs)
    return kept


def fresh(arguments: Any) -> Any:
    """Arguments with their tensors copied, since a module may change them in place."""
    return tree_map(lambda x: x.detach().clone() if isinstance(x, Tensor) else x, arguments)


def first_tensor(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """A linear layer's input."""
    tensor: Tensor = args[0] if args else next(iter(kwargs.values()))
    return tensor


def _leaves(x: Tensor, owner: Mapping[int, str]) -> set[str] | None:
    """Names of the layers whose outputs a tensor was computed from; None: more than a unit can have."""
    found: set[str] = set()
    seen: set[Any] = set()
    stack = [x.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (name := owner.get(id(getattr(node, "variable", None)))) is not None:
            found.add(name)
            if len(found) > _MOST_SOURCES:
                return None
        stack.extend(following for following, _ in node.next_functions)
    return found
