"""Where a scale can be folded away exactly: layers whose input can be made smaller by what makes it.

Candidates come from the data flow: a normalization whose output is the very tensor that layers read, a value projection and the
output projection of its attention, a layer up and the layer down of a feed-forward network. Which of them are right is tried:
with random powers of two, the model must compute what it did, to the last bits. So normalizations that something else reads
(the residual of BERT), activation functions that do not pass a factor on (GELU) and gates fall out, whatever they are called.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from leptonsdk.calibration import Inputs
from leptonsdk.errors import UsageError
from leptonsdk.quantization import class_names, weight_of
from leptonsdk.structure import find_units, outputs_of, steady

_TOLERANCE = 1e-6  # of the largest output: products with powers of two round as before


@dataclass(frozen=True)
class Fold:
    """Layers that read one input, and what makes it.

    Attributes:
        producer: A normalization, or a linear layer.
        consumers: The layers.
        channels: The producer's channel behind each channel of the input ``[in]``; several heads may share one (grouped-query
            attention).
    """

    producer: str
    consumers: tuple[str, ...]
    channels: Tensor

    def share(self, size: Tensor) -> Tensor:
        """The mean over channels that must be scaled alike, for each channel: ``[in]`` to ``[in]``."""
        count = int(self.channels.max()) + 1
        total = torch.zeros(count, device=size.device).index_add_(0, self.channels.to(size.device), size)
        mean = total / torch.bincount(self.channels, minlength=count).to(size)
        return mean[self.channels.to(size.device)]


def apply_fold(model: nn.Module, fold: Fold, scale: Tensor) -> None:
    """Multiply the consumers' input channels by a scale ``[in]`` and divide the producer's by it, in place."""
    by_channel = torch.ones(int(fold.channels.max()) + 1, device=scale.device)
    by_channel[fold.channels.to(scale.device)] = scale
    with torch.no_grad():
        producer = model.get_submodule(fold.producer)
        if _is_linear(producer):
            weight = weight_of(producer)
            weight.div_(by_channel.to(weight).unsqueeze(1))
        else:
            _divide(producer.weight, by_channel)
        if getattr(producer, "bias", None) is not None:
            _divide(producer.bias, by_channel)
        for name in fold.consumers:
            weight = weight_of(model.get_submodule(name))
            weight.mul_(scale.to(weight))


def find_folds(model: nn.Module, layers: Mapping[str, nn.Module], inputs: Sequence[Inputs]) -> list[Fold]:
    """The folds that hold, at most one for each layer; a producer that is a linear layer is one of the layers itself.

    Args:
        model: It is scaled on trial and put back to the bit.
        layers: By name. A fold that would touch another linear layer is none.
        inputs: Small batches; the first one that the model's units can be found with is taken for that.
    """
    with steady(model):
        norms = _norms(model, layers, inputs[0])
        found = _holding(model, inputs[0], [norms])
        found += _holding(model, inputs[0], _from_units(model, layers, inputs))
    return found


def _norms(model: nn.Module, layers: Mapping[str, nn.Module], inputs: Inputs) -> list[Fold]:
    """Layers that read the very output of a module with one weight for each channel."""
    made: dict[tuple[Any, ...], str] = {}
    read: dict[tuple[Any, ...], list[str]] = {}
    alive: list[Tensor] = []  # an address identifies a tensor only while it lives

    def make(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                alive.append(output)
                made[_identity(output)] = name

        return hook

    def use(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            alive.append(args[0])
            read.setdefault(_identity(args[0]), []).append(name)

        return hook

    handles = []
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() == 1:
            handles.append(module.register_forward_hook(make(name)))
        elif _is_linear(module):
            handles.append(module.register_forward_pre_hook(use(name)))
    with _removed(handles), torch.no_grad():
        model(**inputs)
    found: dict[str, list[str]] = {}
    for identity, names in read.items():
        if identity in made:
            found.setdefault(made[identity], []).extend(names)
    folds = []
    for producer, names in found.items():
        consumers = tuple(dict.fromkeys(names))
        width = len(model.get_submodule(producer).weight)  # type: ignore[arg-type]
        fits = all(name in layers and weight_of(layers[name]).shape[1] == width for name in consumers)
        if fits:
            folds.append(Fold(producer, consumers, torch.arange(width)))
    return folds


def _from_units(model: nn.Module, layers: Mapping[str, nn.Module], inputs: Sequence[Inputs]) -> list[list[Fold]]:
    """Lists of candidates, each of which is likely to hold as a whole or not at all: values, and layers up (or gates)."""
    for batch in inputs:
        try:
            attentions, networks = find_units(model, batch)
            break
        except UsageError:
            continue
    else:
        return []
    values = []
    for unit in attentions:
        head = torch.arange(unit.heads * unit.value_size) // unit.value_size
        within = torch.arange(unit.heads * unit.value_size) % unit.value_size
        group = head // (unit.heads // unit.groups)
        values.append(Fold(unit.value, (unit.output,), group * unit.value_size + within))
    firsts = [Fold(unit.up[0], (unit.down,), torch.arange(unit.neurons)) for unit in networks]
    lasts = [Fold(unit.up[-1], (unit.down,), torch.arange(unit.neurons)) for unit in networks if len(unit.up) > 1]
    lists = (values, lasts, firsts)
    return [[fold for fold in folds if {fold.producer, *fold.consumers} <= layers.keys()] for folds in lists]


def _holding(model: nn.Module, inputs: Inputs, lists: Sequence[list[Fold]]) -> list[Fold]:
    """Those folds after which the model computes the same, at most one for each layer. Lists are tried whole, then halved."""
    expected = outputs_of(model, inputs)
    found: list[Fold] = []
    for folds in sorted(lists, key=lambda folds: not _holds(model, inputs, folds, expected)):
        taken = {name for fold in found for name in fold.consumers}
        found += _halved(model, inputs, [fold for fold in folds if not taken & set(fold.consumers)], expected)
    return found


def _halved(model: nn.Module, inputs: Inputs, folds: list[Fold], expected: list[Tensor]) -> list[Fold]:
    if not folds or _holds(model, inputs, folds, expected):
        return folds
    if len(folds) == 1:
        return []
    middle = len(folds) // 2
    parts = (folds[:middle], folds[middle:])
    return [fold for part in parts for fold in _halved(model, inputs, part, expected)]


def _holds(model: nn.Module, inputs: Inputs, folds: Sequence[Fold], expected: list[Tensor]) -> bool:
    generator = torch.Generator().manual_seed(0)
    scales = [
        fold.share(torch.exp2(torch.randint(-2, 3, (len(fold.channels),), generator=generator).float()))
        for fold in folds
    ]
    scales = [torch.exp2(torch.round(torch.log2(scale))) for scale in scales]
    with _kept(model, folds):
        for fold, scale in zip(folds, scales, strict=True):
            apply_fold(model, fold, scale)
        found = outputs_of(model, inputs)
    return len(found) == len(expected) and all(_same(a, b) for a, b in zip(found, expected, strict=True))


def _same(one: Tensor, other: Tensor) -> bool:
    largest = float(other.abs().max()) if other.numel() else 0.0
    return one.shape == other.shape and torch.allclose(
        one.float(), other.float(), rtol=0, atol=_TOLERANCE * largest, equal_nan=True
    )


@contextmanager
def _kept(model: nn.Module, folds: Sequence[Fold]) -> Iterator[None]:
    """Put the parameters that folds touch back as they were."""
    names = {name for fold in folds for name in (fold.producer, *fold.consumers)}
    before = [(p, p.detach().clone()) for name in names for p in model.get_submodule(name).parameters(recurse=False)]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in before:
                parameter.copy_(value)


@contextmanager
def _removed(handles: list[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _divide(vector: Any, by: Tensor) -> None:
    """A parameter ``[channels]``, in place."""
    vector.div_(by.to(vector))


def _is_linear(module: nn.Module) -> bool:
    return "Linear" in class_names(module) or "Conv1D" in class_names(module)


def _identity(x: Tensor) -> tuple[Any, ...]:
    return x.data_ptr(), tuple(x.shape), x.stride(), x._version
