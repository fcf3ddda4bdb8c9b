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

# Classes that hold a linear map, but of a kind that compressors of weights do not take, nor formats store quantized.
_OTHER = frozenset({"Conv2d", "Conv3d"})
_EMBEDDING = "Embedding"


@dataclass(frozen=True)
class LinearLayer:
    """A linear layer by its full name, or an embedding table, whose rows take the place of outputs."""

    name: str
    module: nn.Module

    @property
    def weight(self) -> Tensor:
        return weight_of(self.module)

    @property
    def in_features(self) -> int:
        return self.weight.shape[1]


def weight_of(module: nn.Module) -> Tensor:
    """A weight as ``[out, in]``, a view: transformers' ``Conv1D`` (GPT-2) holds it the other way round.

    Of an embedding it is the table, ``[tokens, size]``.
    """
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


def is_packable(module: nn.Module) -> bool:
    """Whether the packed formats have a place for a layer that transformers loads in whatever company: ``nn.Linear``."""
    from torch import nn

    return isinstance(module, nn.Linear)


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
    owners = _owners(model)
    return frozenset(n for n, m in linear_layers(model).items() if len(owners[id(m.weight)]) > 1)


def _owners(model: nn.Module) -> dict[int, list[str]]:
    """The modules that hold a parameter, by its id."""
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    return owners


def embedding_tables(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """The embedding tables of a model, and the modules that hold each.

    Returns:
        By the name of the embedding that holds it, the first one of several (T5's), the names of all that do, a tied
        output layer's too.
    """
    from torch import nn

    owners = _owners(model)
    tables: dict[int, str] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            tables.setdefault(id(module.weight), name)
    return {name: tuple(owners[weight]) for weight, name in tables.items()}


def table_of(model: nn.Module) -> dict[str, str]:
    """For every module that holds an embedding table, the name under which its integers stand (see `embedding_tables`)."""
    return {owner: name for name, owners in embedding_tables(model).items() for owner in owners}


def choose_layers(
    model: nn.Module,
    targets: Iterable[str],
    ignore: Iterable[str] = (),
    done: Iterable[str] = (),
    *,
    embeddings: bool = False,
) -> list[LinearLayer]:
    """The layers that the patterns mean: what a compressor of weights works on.

    A tied layer is left out whatever its name: its weight is an embedding's. That is taken where the embedding is meant,
    once for all that hold it, and stands under `embedding_tables`' name for it.

    Args:
        model: Any model.
        targets: Patterns (class, name or end of it, ``re:REGEX``).
        ignore: Patterns of layers to leave out.
        done: Names of layers that are quantized already, and are left out.
        embeddings: Whether embedding tables may be meant too.

    Raises:
        UsageError: Nothing is meant; a layer is meant that cannot be taken (``Conv2d``); a table is meant that an ignored
            layer shares; or transformers quantized the model already.
    """
    refuse_library_layers(model)
    targets, ignore, done = tuple(targets), tuple(ignore), frozenset(done)
    linear, tied, tables = linear_layers(model), tied_layers(model), table_of(model)
    modules = dict(model.named_modules())
    meant: dict[str, None] = {}
    other = []
    for name, module in modules.items():
        classes = class_names(module)
        if name and matches(name, classes, targets, ignore):
            if name in linear:
                meant[name] = None
            elif _EMBEDDING in classes and embeddings:
                meant[tables[name]] = None
            elif classes & {*_OTHER, _EMBEDDING}:
                other.append(f"{name} ({type(module).__name__})")
    if other:
        raise UsageError(
            f"only nn.Linear, Conv1D and, by `rtn`, embeddings can be taken, these layers cannot: {', '.join(other)}",
            hint="narrow `targets`, or add them to `ignore`",
        )
    _check_ties(model, [name for name in meant if name in tables], ignore)
    chosen = [LinearLayer(n, modules[n]) for n in meant if n not in tied and n not in done]
    if not chosen:
        raise UsageError(_nothing(targets, ignore, [n for n in meant if n in tied], [n for n in meant if n in done]))
    return chosen


def layers_to_quantize(
    model: nn.Module,
    scheme: Pieces,
    targets: Iterable[str],
    ignore: Iterable[str] = (),
    done: Iterable[str] = (),
    *,
    embeddings: bool = False,
) -> list[LinearLayer]:
    """`choose_layers`, checked to fit a scheme.

    Raises:
        UsageError: Groups do not fit some layer, or what `choose_layers` raises.
    """
    chosen = choose_layers(model, targets, ignore, done, embeddings=embeddings)
    check_fits(scheme, {layer.name: layer.in_features for layer in chosen})
    return chosen


def _check_ties(model: nn.Module, meant: Iterable[str], ignore: tuple[str, ...]) -> None:
    """That no layer which is to stay in float holds a table that is to be quantized."""
    holders, modules = embedding_tables(model), dict(model.named_modules())
    for table in meant:
        kept = [name for name in holders.get(table, ()) if matches(name, class_names(modules[name]), ignore)]
        if kept:
            raise UsageError(
                f"the table '{table}' is the weight of {', '.join(kept)} too, which `ignore` leaves in float",
                hint="`ignore: []` quantizes the one weight for both; or add the embedding to `ignore`",
            )


def _nothing(targets: tuple[str, ...], ignore: tuple[str, ...], tied: list[str], done: list[str]) -> str:
    message = f"no linear layer is left by targets {list(targets)} and ignore {list(ignore)}"
    if tied:
        message += f"; tied to an embedding: {', '.join(tied)}"
    if done:
        message += f"; quantized already: {', '.join(done)}"
    return message
