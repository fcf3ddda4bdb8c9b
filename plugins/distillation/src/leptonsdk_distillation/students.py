"""Students that are their teacher with fewer blocks (DistilBERT, arXiv 1910.01108, section 3), heads or neurons."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

from torch import nn

from leptonsdk.errors import UsageError
from leptonsdk.structure import deepest_stacks, drop_layers
from leptonsdk_distillation.narrowing import narrow

ModelT = TypeVar("ModelT", bound=nn.Module)

_WHERE = "make_student"


def make_student(
    teacher: ModelT,
    layers: int | Sequence[int] | None = None,
    *,
    decoder_layers: int | Sequence[int] | None = None,
    heads: int | None = None,
    intermediate_size: int | None = None,
) -> ModelT:
    """A copy of a model with some of its blocks, heads and neurons, whose config says so.

    A save of it loads with plain ``from_pretrained``. Only fewer heads cannot be said by every config: BERT's head size is its
    hidden size by their number. There, save ``Checkpoint.of(student)`` and load it with `leptonsdk.load_model`.

    Args:
        teacher: A transformers model; it stays as it is.
        layers: Blocks to keep: a number of them, evenly spread from the first to the last (6 of 12 are 0, 2, 4, 7, 9 and 11, as
            DistilBERT's were chosen), or the blocks' numbers in increasing order; None keeps all.
        decoder_layers: The same for the decoder of a model that has both, where it is to differ from the encoder's.
        heads: Query heads to keep in each attention: those whose values and outputs have the largest weights. Where several
            share a key-value head, they stay or go together.
        intermediate_size: Neurons to keep in each feed-forward network, chosen likewise.

    Raises:
        UsageError: There are no such blocks, heads or neurons, or the model cannot be described by its config without the other
            blocks.
    """
    student = copy.deepcopy(teacher)
    if decoder_layers is None:
        parts: dict[str | None, int | Sequence[int] | None] = {None: layers}
    elif getattr(getattr(student, "config", None), "is_encoder_decoder", False):
        parts = {"encoder": layers, "decoder": decoder_layers}
    else:
        raise UsageError("the model has no decoder beside an encoder", where=_WHERE, hint="give `layers`")
    for part, wanted in parts.items():
        if wanted is not None:
            depth = len(next(iter(deepest_stacks(student, part).values()), ()))
            if not depth:
                raise UsageError(f"no stack of blocks is found in {type(teacher).__name__}", where=_WHERE)
            drop_layers(student, kept_blocks(wanted, depth), part)
    if heads is not None or intermediate_size is not None:
        narrow(student, heads, intermediate_size)
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
