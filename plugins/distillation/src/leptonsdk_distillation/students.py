"""Students that are their teacher with fewer blocks (DistilBERT, arXiv 1910.01108, section 3)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from leptonsdk.errors import UsageError

ModelT = TypeVar("ModelT", bound=nn.Module)

_WHERE = "make_student"
# How configs name the number of blocks, of a decoder in an encoder-decoder and of everything else.
_DECODER_COUNTS = ("decoder_layers", "num_decoder_layers")
_COUNTS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer", "encoder_layers", "num_encoder_layers")
_INDICES = ("layer_idx", "layer_index", "layer_id")


def make_student(
    teacher: ModelT, layers: int | Sequence[int] | None, *, decoder_layers: int | Sequence[int] | None = None
) -> ModelT:
    """A copy of a model with some of its blocks, whose config says so: a save of it loads with plain ``from_pretrained``.

    Args:
        teacher: A transformers model; it stays as it is.
        layers: Blocks to keep: a number of them, evenly spread from the first to the last (6 of 12 are 0, 2, 4, 7, 9 and 11, as
            DistilBERT's were chosen), or the blocks' numbers in increasing order; None keeps all.
        decoder_layers: The same for the decoder of a model that has both, where it is to differ from the encoder's.

    Raises:
        UsageError: There are no such blocks, or the model cannot be described by its config without the others.
    """
    student = copy.deepcopy(teacher)
    config: Any = getattr(student, "config", None)
    two_stacks = bool(getattr(config, "is_encoder_decoder", False))
    if decoder_layers is not None and not two_stacks:
        raise UsageError("the model has no decoder beside an encoder", where=_WHERE, hint="give `layers`")
    stacks = list(_stacks(student))
    if not stacks:
        raise UsageError(f"no stack of blocks is found in {type(teacher).__name__}", where=_WHERE)
    for path, owner, blocks in stacks:
        decoder = two_stacks and "decoder" in path.split(".")
        wanted = decoder_layers if decoder and decoder_layers is not None else layers
        if wanted is not None:
            _keep(
                student, owner, path, blocks, kept_blocks(wanted, len(blocks)), decoder=decoder, two_stacks=two_stacks
            )
    _check_rebuilt(student)
    return student


def kept_blocks(layers: int | Sequence[int], total: int) -> list[int]:
    """The numbers of the blocks to keep, of ``total``; a `UsageError` when there are no such."""
    if isinstance(layers, int):
        if not 1 <= layers <= total:
            raise UsageError(f"{layers} of {total} blocks cannot be kept", where=_WHERE)
        return [round(i * (total - 1) / max(layers - 1, 1)) for i in range(layers)]
    kept = list(layers)
    if not kept or kept != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= total:
        raise UsageError(
            f"{kept} are no blocks of {total}", where=_WHERE, hint=f"numbers from 0 to {total - 1} in increasing order"
        )
    return kept


def _stacks(model: nn.Module) -> Iterator[tuple[str, Any, nn.ModuleList]]:
    """Each stack of blocks with its path and the nearest module around it that has a config.

    A stack is an outermost list of modules of one class that is as long as a count in the config: experts are inside of
    blocks, the convolutions of a speech model are fewer.
    """

    def search(module: nn.Module, path: str, owner: Any) -> Iterator[tuple[str, Any, nn.ModuleList]]:
        owner = module if hasattr(module, "config") else owner
        counts = _counts(getattr(owner, "config", None)) | _counts(getattr(model, "config", None))
        for name, child in module.named_children():
            place = f"{path}.{name}" if path else name
            if isinstance(child, nn.ModuleList) and len({type(block) for block in child}) == 1 and len(child) in counts:
                yield place, owner, child
            else:
                yield from search(child, place, owner)

    return search(model, "", None)


def _counts(config: Any) -> set[int]:
    values = (getattr(config, name, None) for name in (*_COUNTS, *_DECODER_COUNTS))
    return {value for value in values if isinstance(value, int)}


def _keep(
    model: Any, owner: Any, path: str, blocks: nn.ModuleList, kept: list[int], *, decoder: bool, two_stacks: bool
) -> None:
    """Keep these blocks of a stack, number them anew, and say so in every config that counts them."""
    before = len(blocks)
    chosen = [blocks[i] for i in kept]
    del blocks[:]
    for new, (old, block) in enumerate(zip(kept, chosen, strict=True)):
        for module in block.modules():
            for name in _INDICES:  # under which a layer finds its part of the KV cache
                if vars(module).get(name) == old:
                    setattr(module, name, new)
        blocks.append(block)
    parent = model.get_submodule(path.rpartition(".")[0])
    for name in _COUNTS:  # some stacks keep their length
        if vars(parent).get(name) == before:
            setattr(parent, name, len(kept))
    if owner.config is not model.config:  # a part's own config speaks of one stack
        _shorten(owner.config, (*_COUNTS, *_DECODER_COUNTS), kept, before)
    if not two_stacks:
        _shorten(model.config, (*_COUNTS, *_DECODER_COUNTS), kept, before)
    else:
        _shorten(model.config, _DECODER_COUNTS if decoder else _COUNTS, kept, before)


def _shorten(config: Any, counts: Sequence[str], kept: list[int], before: int) -> None:
    """Set the counts that are ``before``, and the lists that have an entry per block (``layer_types``)."""
    lists = {
        name: value
        for name, value in vars(config).items()
        if isinstance(value, list) and len(value) == before and "layer" in name
    }
    for name in counts:
        if getattr(config, name, None) == before:
            setattr(config, name, len(kept))
    for name, value in lists.items():
        setattr(config, name, [value[i] for i in kept])


def _check_rebuilt(student: Any) -> None:
    """That the config builds this model: the same tensors of the same shapes, which `from_pretrained` will look for."""
    with torch.device("meta"):
        rebuilt = type(student)(copy.deepcopy(student.config))
    ours, theirs = ({n: tuple(t.shape) for n, t in m.state_dict().items()} for m in (student, rebuilt))
    if different := sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)):
        raise UsageError(
            f"without these blocks its config does not describe the model ({', '.join(different[:3])} differ)",
            where=_WHERE,
            hint="keep block 0, which some models treat apart",
        )
