"""Which layers of a model a compressor works on, and which it cannot."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leptonsdk.errors import UsageError
from leptonsdk.quantization.library_layers import refuse_library_layers
from leptonsdk.quantization.scheme import Pieces, check_fits, matches

if TYPE_CHECKING:
    from torch import Tensor, nn

# Classes that hold a linear map, but of a kind that compressors of linear layers do not take, nor formats store quantized.
_OTHER = frozenset({"Conv2d", "Conv3d", "Embedding"})


@dataclass(frozen=True)
class LinearLayer:
    """A linear layer by its full name."""

    name: str
    module: nn.Module

    @property
    def weight(self) -> Tensor:
        return weight_of(self.module)

    @property
    def in_features(self) -> int:
        return self.weight.shape[1]


def weight_of(module: nn.Module) -> Tensor:
    """A linear layer's weight as ``[out, in]``, a view: transformers' ``Conv1D`` (GPT-2) holds it the other way round."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    return weight.t() if is_conv1d(module) else weight


def bias_of(module: nn.Module) -> Tensor | None:
    """A layer's bias ``[out]``, if it has one."""
    bias: Tensor | None = module.bias  # type: ignore[assignment]
    return None if bias is None else bias.detach()


def is_conv1d(module: nn.Module) -> bool:
    """Whether a layer is transformers' ``Conv1D``, which the packed formats have no place for."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def class_names(module: nn.Module) -> frozenset[str]:
    """Names of a module's class and its bases, all of which a pattern may mean."""
    from torch import nn

    return frozenset(base.__name__ for base in type(module).__mro__ if issubclass(base, nn.Module))


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """All linear layers (``nn.Linear`` and ``Conv1D``) by name, tied ones too."""
    from torch import nn

    return {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear) or is_conv1d(m)}


def tied_layers(model: nn.Module) -> frozenset[str]:
    """Names of linear layers whose weight is some other module's as well (an output embedding, mostly)."""
    owners: dict[int, set[str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(name)
    return frozenset(n for n, m in linear_layers(model).items() if len(owners[id(m.weight)]) > 1)


def choose_layers(
    model: nn.Module, targets: Iterable[str], ignore: Iterable[str] = (), done: Iterable[str] = ()
) -> list[LinearLayer]:
    """The linear layers that the patterns mean: what a compressor of weights works on.

    Tied layers are left out whatever their name: their weight is an embedding too, which stays as it is.

    Args:
        model: Any model.
        targets: Patterns (class, name or end of it, ``re:REGEX``).
        ignore: Patterns of layers to leave out.
        done: Names of layers that are quantized already, and are left out.

    Raises:
        UsageError: Nothing is meant; a layer is meant that is not linear (``Conv2d``); or transformers quantized the model
            already.
    """
    refuse_library_layers(model)
    targets, ignore, done = tuple(targets), tuple(ignore), frozenset(done)
    linear, tied = linear_layers(model), tied_layers(model)
    meant, other = [], []
    for name, module in model.named_modules():
        classes = class_names(module)
        if name and matches(name, classes, targets, ignore):
            if name in linear:
                meant.append(name)
            elif classes & _OTHER:
                other.append(f"{name} ({type(module).__name__})")
    if other:
        raise UsageError(
            f"only nn.Linear and Conv1D can be taken, these layers cannot: {', '.join(other)}",
            hint="narrow `targets`, or add them to `ignore`",
        )
    chosen = [LinearLayer(n, linear[n]) for n in meant if n not in tied and n not in done]
    if not chosen:
        raise UsageError(_nothing(targets, ignore, [n for n in meant if n in tied], [n for n in meant if n in done]))
    return chosen


def layers_to_quantize(
    model: nn.Module, scheme: Pieces, targets: Iterable[str], ignore: Iterable[str] = (), done: Iterable[str] = ()
) -> list[LinearLayer]:
    """`choose_layers`, checked to fit a scheme.

    Raises:
        UsageError: Groups do not fit some layer, or what `choose_layers` raises.
    """
    chosen = choose_layers(model, targets, ignore, done)
    check_fits(scheme, {layer.name: layer.in_features for layer in chosen})
    return chosen


def _nothing(targets: tuple[str, ...], ignore: tuple[str, ...], tied: list[str], done: list[str]) -> str:
    message = f"no linear layer is left by targets {list(targets)} and ignore {list(ignore)}"
    if tied:
        message += f"; tied to an embedding: {', '.join(tied)}"
    if done:
        message += f"; quantized already: {', '.join(done)}"
    return message
