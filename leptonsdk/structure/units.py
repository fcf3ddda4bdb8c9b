"""What can be removed: descriptions of an attention and of a feed-forward network by the names of their layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leptonsdk.errors import UsageError


@dataclass(frozen=True)
class Attention:
    """An attention of four linear layers.

    The unit that can be removed is a group: one key-value head with the ``heads / groups`` query heads that read it. Without
    grouped-query attention a group is a head. Query head ``h`` belongs to group ``h // (heads / groups)``.

    Attributes:
        name: The closest module that holds all four.
        query: Full name; weight ``[heads * query_size, hidden]``.
        key: Weight ``[groups * query_size, hidden]``; in cross-attention its input is another tensor than the query's.
        value: Weight ``[groups * value_size, hidden]``.
        output: Weight ``[hidden, heads * value_size]``.
        heads: Query heads.
        groups: Key-value heads.
        query_size: Width of one query or key head.
        value_size: Width of one value head.
    """

    name: str
    query: str
    key: str
    value: str
    output: str
    heads: int
    groups: int
    query_size: int
    value_size: int

    @property
    def layers(self) -> tuple[str, ...]:
        return (self.query, self.key, self.value, self.output)


@dataclass(frozen=True)
class FeedForward:
    """A feed-forward network: one layer up (or a gate and one layer up), an elementwise function, one layer down.

    Attributes:
        name: The closest module that holds all of them.
        up: Full names, one or two; weights ``[neurons, hidden]``.
        down: Full name; weight ``[hidden, neurons]``.
        neurons: Width in between.
    """

    name: str
    up: tuple[str, ...]
    down: str
    neurons: int

    @property
    def layers(self) -> tuple[str, ...]:
        return (*self.up, self.down)


def common_parent(names: Sequence[str]) -> str:
    """The full name of the closest module that holds all these modules; empty for the model itself."""
    parts = [name.split(".")[:-1] for name in names]
    shared = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return ".".join(shared)


def check_keep(keep: Sequence[int], count: int, what: str, where: str) -> list[int]:
    """The indices to keep, sorted.

    Raises:
        UsageError: There are none, one is out of range, or one stands twice.
    """
    chosen = sorted(keep)
    if not chosen:
        raise UsageError(f"at least one of the {what} must be kept", where=where)
    if len(set(chosen)) < len(chosen):
        raise UsageError(f"an index of the {what} to keep stands twice", where=where)
    if chosen[0] < 0 or chosen[-1] >= count:
        wrong = chosen[0] if chosen[0] < 0 else chosen[-1]
        raise UsageError(f"there is no index {wrong} among the {what}: it has {count}", where=where)
    return chosen
