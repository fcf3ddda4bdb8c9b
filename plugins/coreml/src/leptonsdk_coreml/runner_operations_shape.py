"""MIL operations that move, cut and place numbers, in torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_TYPES = {"fp16": torch.float32, "fp32": torch.float32, "bool": torch.bool}


def numbers(x: Any) -> list[int]:
    """A list of integers from whatever holds one; empty of None."""
    if x is None:
        return []
    if isinstance(x, Tensor):
        return [int(n) for n in x.reshape(-1).tolist()]
    return [int(n) for n in (x if isinstance(x, list | tuple) else [x])]


def _flags(x: Any, count: int) -> list[bool]:
    return [False] * count if x is None else [bool(n) for n in numbers(x)]


def _slice_by_index(
    x: Tensor,
    begin: Any,
    end: Any,
    stride: Any = None,
    begin_mask: Any = None,
    end_mask: Any = None,
    squeeze_mask: Any = None,
) -> Tensor:
    starts, ends = numbers(begin), numbers(end)
    rank = len(starts)
    steps = numbers(stride) or [1] * rank
    opens, closes, squeezes = _flags(begin_mask, rank), _flags(end_mask, rank), _flags(squeeze_mask, rank)
    for axis in reversed(range(rank)):
        if squeezes[axis]:
            x = x.select(axis, starts[axis])
            continue
        cut = slice(None if opens[axis] else starts[axis], None if closes[axis] else ends[axis], steps[axis])
        places = range(x.shape[axis])[cut]
        if steps[axis] > 0:
            x = x[(slice(None),) * axis + (cut,)]
        else:
            x = x.index_select(axis, torch.tensor(list(places), dtype=torch.long))
    return x


def _slice_by_size(x: Tensor, begin: Any, size: Any) -> Tensor:
    for axis, (start, length) in enumerate(zip(numbers(begin), numbers(size), strict=True)):
        x = x.narrow(axis, start, x.shape[axis] - start if length == -1 else length)
    return x


def _places(indices: Any, size: int) -> Tensor:
    found = torch.as_tensor(indices).long()
    return torch.where(found < 0, found + size, found)


def _gather(x: Tensor, indices: Any, axis: int = 0, batch_dims: int = 0, **_: Any) -> Tensor:
    axis %= x.dim()
    where = _places(indices, x.shape[axis])
    if batch_dims == 0:
        shape = (*x.shape[:axis], *where.shape, *x.shape[axis + 1 :])
        if axis == 0 and x.dim() == 2:
            return functional.embedding(where, x)
        return x.index_select(axis, where.reshape(-1)).reshape(shape)
    rows = [_gather(part, at, axis - 1, batch_dims - 1) for part, at in zip(x.unbind(0), where.unbind(0), strict=True)]
    return torch.stack(rows)


def _gather_along_axis(x: Tensor, indices: Tensor, axis: int = 0, **_: Any) -> Tensor:
    return x.gather(axis, _places(indices, x.shape[axis]))


def _gather_nd(x: Tensor, indices: Tensor, batch_dims: int = 0, **_: Any) -> Tensor:
    if batch_dims:
        parts = zip(x.unbind(0), indices.unbind(0), strict=True)
        return torch.stack([_gather_nd(part, at, batch_dims - 1) for part, at in parts])
    return x[tuple(_places(at, size) for at, size in zip(indices.unbind(-1), x.shape, strict=False))]


def _place(data: Tensor, where: tuple[Tensor, ...], updates: Tensor, mode: str) -> Tensor:
    found = data.clone()
    if mode in ("update", "add"):
        return found.index_put(where, updates.to(data.dtype), accumulate=mode == "add")
    old = data[where]
    new = {"sub": old - updates, "mul": old * updates, "div": old / updates}
    new |= {"max": torch.maximum(old, updates), "min": torch.minimum(old, updates)}
    return found.index_put(where, new[mode].to(data.dtype))


def _scatter_nd(data: Tensor, indices: Tensor, updates: Tensor, mode: str = "add", **_: Any) -> Tensor:
    where = tuple(_places(at, size) for at, size in zip(indices.unbind(-1), data.shape, strict=False))
    return _place(data, where, updates, mode)


def _scatter(data: Tensor, indices: Tensor, updates: Tensor, axis: int = 0, mode: str = "add", **_: Any) -> Tensor:
    moved = data.movedim(axis, 0)
    at = _places(indices, data.shape[axis])
    return _place(moved, (at,), updates.movedim(axis, 0) if at.dim() == 1 else updates, mode).movedim(0, axis)


def _reshape(x: Tensor, shape: Any) -> Tensor:
    return x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(numbers(shape))])


def _expand_dims(x: Any, axes: Any) -> Tensor:
    found = torch.as_tensor(x)
    rank = found.dim() + len(numbers(axes))
    for axis in sorted(axis % rank for axis in numbers(axes)):
        found = found.unsqueeze(axis)
    return found


def _squeeze(x: Tensor, axes: Any = None) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in numbers(axes)), reverse=True):
        x = x.squeeze(axis)
    return x.squeeze() if axes is None else x


def _concat(values: list[Any], axis: int, interleave: bool = False) -> Tensor:
    parts = [torch.as_tensor(value) for value in values]
    parts = [part.reshape(1) if part.dim() == 0 else part for part in parts]
    if interleave:
        return torch.stack(parts, axis % parts[0].dim() + 1).flatten(axis % parts[0].dim(), axis % parts[0].dim() + 1)
    return torch.cat(parts, axis)


def _split(x: Tensor, axis: int, num_splits: int | None = None, split_sizes: Any = None) -> tuple[Tensor, ...]:
    pieces = numbers(split_sizes)
    if not pieces:
        pieces = [x.shape[axis] // int(num_splits or 1)] * int(num_splits or 1)
    return torch.split_with_sizes(x, pieces, axis)


def _cast(x: Any, dtype: str) -> Tensor:
    found = torch.as_tensor(x)
    if dtype in _TYPES:
        return found.to(_TYPES[dtype])
    return found.to(torch.int32)


def _tile(x: Tensor, reps: Any) -> Tensor:
    return x.repeat(numbers(reps))


def _pad(x: Tensor, pad: Any, mode: str = "constant", constant_val: float = 0.0) -> Tensor:
    given = numbers(pad)
    around = [n for axis in reversed(range(len(given) // 2)) for n in given[2 * axis : 2 * axis + 2]]
    if mode == "constant":
        return functional.pad(x, around, value=constant_val)
    while len(around) > 2 and around[-2:] == [0, 0]:
        around = around[:-2]
    lead = x.dim() - len(around) // 2
    flat = x.reshape(1, -1, *x.shape[lead:])
    found = functional.pad(flat, around, mode=mode if mode == "reflect" else "replicate")
    return found.reshape(*x.shape[:lead], *found.shape[2:])


def _fill(shape: Any, value: Any = 0.0) -> Tensor:
    kind = torch.float32 if isinstance(value, float) else torch.bool if isinstance(value, bool) else torch.int32
    return torch.full(numbers(shape), value, dtype=kind)


def _range_1d(end: Any, start: Any, step: Any) -> Tensor:
    limits = [value.item() if isinstance(value, Tensor) else value for value in (start, end, step)]
    kind = torch.float32 if any(isinstance(limit, float) for limit in limits) else torch.int32
    return torch.arange(*limits, dtype=kind)


def _band_part(x: Tensor, lower: int = -1, upper: int = -1) -> Tensor:
    rows, columns = torch.arange(x.shape[-2])[:, None], torch.arange(x.shape[-1])
    kept = torch.ones(x.shape[-2:], dtype=torch.bool)
    if lower >= 0:
        kept &= rows - columns <= lower
    if upper >= 0:
        kept &= columns - rows <= upper
    return torch.where(kept, x, 0)


def _one_hot(
    indices: Tensor, one_hot_vector_size: Any, axis: int = -1, on_value: Any = 1, off_value: Any = 0
) -> Tensor:
    hot = functional.one_hot(indices.long(), int(one_hot_vector_size)).bool()
    return torch.where(hot.movedim(-1, axis), on_value, off_value)


def _topk(
    x: Tensor, k: int = 1, axis: int = -1, ascending: bool = False, sort: bool = True, **_: Any
) -> tuple[Tensor, Tensor]:
    found = x.topk(int(k), dim=axis, largest=not ascending, sorted=sort)
    return found.values, found.indices.int()


def _argsort(x: Tensor, axis: int = -1, ascending: bool = False) -> Tensor:
    return x.argsort(dim=axis, descending=not ascending, stable=True).int()


def _upsample_nearest(x: Tensor, scale_factor_height: float = 1, scale_factor_width: float = 1) -> Tensor:
    return functional.interpolate(x, scale_factor=(float(scale_factor_height), float(scale_factor_width)))


def _upsample_bilinear(
    x: Tensor, scale_factor_height: float = 1, scale_factor_width: float = 1, align_corners: bool = True, **_: Any
) -> Tensor:
    factors = (float(scale_factor_height), float(scale_factor_width))
    return functional.interpolate(x, scale_factor=factors, mode="bilinear", align_corners=align_corners)


SHAPES: Mapping[str, Callable[..., Any]] = {
    "identity": lambda x: x,
    "shape": lambda x: torch.tensor(x.shape, dtype=torch.int32),
    "cast": _cast,
    "reshape": _reshape,
    "transpose": lambda x, perm: x.permute(numbers(perm)),
    "expand_dims": _expand_dims,
    "squeeze": _squeeze,
    "concat": _concat,
    "stack": lambda values, axis: torch.stack([torch.as_tensor(value) for value in values], axis),
    "split": _split,
    "slice_by_index": _slice_by_index,
    "slice_by_size": _slice_by_size,
    "gather": _gather,
    "gather_along_axis": _gather_along_axis,
    "gather_nd": _gather_nd,
    "scatter": _scatter,
    "scatter_nd": _scatter_nd,
    "tile": _tile,
    "pad": _pad,
    "fill": _fill,
    "fill_like": lambda ref_tensor, value: _fill(list(ref_tensor.shape), value),
    "range_1d": _range_1d,
    "band_part": _band_part,
    "one_hot": _one_hot,
    "reverse": lambda x, axes=None: x.flip(numbers(axes) or list(range(x.dim()))),
    "topk": _topk,
    "argsort": _argsort,
    "non_zero": lambda x: x.nonzero().int(),
    "upsample_nearest_neighbor": _upsample_nearest,
    "upsample_bilinear": _upsample_bilinear,
}
