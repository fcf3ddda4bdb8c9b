"""MIL operations in torch, by name, with MIL's own argument names (coremltools.converters.mil.mil.ops.defs)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from leptonsdk_coreml.runner_operations_shape import SHAPES, numbers

Compute = Callable[..., Any]


def _tensor(x: Any) -> Tensor:
    return x if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.float32 if isinstance(x, float) else None)


def _unary(compute: Callable[[Tensor], Tensor]) -> Compute:
    return lambda x, **_: compute(_tensor(x))


def _binary(compute: Callable[[Any, Any], Any]) -> Compute:
    return lambda x, y, **_: compute(_tensor(x), y)


def _reduce(compute: Callable[..., Tensor]) -> Compute:
    def reduced(x: Tensor, axes: Any = None, keep_dims: bool = False) -> Tensor:
        return compute(x, dim=list(range(x.dim())) if axes is None else numbers(axes), keepdim=keep_dims)

    return reduced


def _argument_of(compute: Callable[..., Tensor]) -> Compute:
    return lambda x, axis=-1, keep_dims=False, **_: compute(x, dim=axis, keepdim=keep_dims).int()


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return functional.linear(x, weight, bias)


def _matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    return torch.matmul(x.transpose(-1, -2) if transpose_x else x, y.transpose(-1, -2) if transpose_y else y)


def _layer_norm(
    x: Tensor, axes: Any = None, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5
) -> Tensor:
    over = sorted(axis % x.dim() for axis in (range(x.dim()) if axes is None else numbers(axes)))
    if over == list(range(x.dim() - len(over), x.dim())):
        return functional.layer_norm(x, [x.shape[axis] for axis in over], gamma, beta, epsilon)
    variance, mean = torch.var_mean(x, dim=over, correction=0, keepdim=True)
    shape = [x.shape[axis] if axis in over else 1 for axis in range(x.dim())]
    scaled = (x - mean) * torch.rsqrt(variance + epsilon) * (1.0 if gamma is None else gamma.reshape(shape))
    return scaled if beta is None else scaled + beta.reshape(shape)


def _batch_norm(
    x: Tensor, mean: Tensor, variance: Tensor, gamma: Any = None, beta: Any = None, epsilon: float = 1e-5
) -> Tensor:
    return functional.batch_norm(x, mean, variance, gamma, beta, training=False, eps=epsilon)


def _instance_norm(x: Tensor, gamma: Any = None, beta: Any = None, epsilon: float = 1e-5) -> Tensor:
    return functional.instance_norm(x, weight=gamma, bias=beta, eps=epsilon)


def _gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return functional.gelu(x, approximate="tanh" if mode == "TANH_APPROXIMATION" else "none")


def _padding(x: Tensor, weight: Tensor, strides: Any, pad_type: str, pad: Any, dilations: Any) -> list[int]:
    """Zeros before and after each spatial axis, from the last to the first, as torch's ``pad`` takes them."""
    rank = x.dim() - 2
    if pad_type == "valid":
        return [0] * 2 * rank
    if pad_type == "custom":
        given = numbers(pad)
        return [n for axis in reversed(range(rank)) for n in given[2 * axis : 2 * axis + 2]]
    found: list[int] = []
    for axis in reversed(range(rank)):
        size, kernel = x.shape[axis + 2], (weight.shape[axis + 2] - 1) * dilations[axis] + 1
        total = max((math.ceil(size / strides[axis]) - 1) * strides[axis] + kernel - size, 0)
        less, more = total // 2, total - total // 2
        found += [more, less] if pad_type == "same_lower" else [less, more]
    return found


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Any = None,
    pad_type: str = "valid",
    pad: Any = None,
    dilations: Any = None,
    groups: int = 1,
) -> Tensor:
    rank = x.dim() - 2
    steps, spread = numbers(strides) or [1] * rank, numbers(dilations) or [1] * rank
    compute = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
    padded = functional.pad(x, _padding(x, weight, steps, pad_type, pad, spread))
    found: Tensor = compute(padded, weight, bias, steps, 0, spread, groups)
    return found


def _pool(average: bool) -> Compute:
    def pooled(
        x: Tensor,
        kernel_sizes: Any,
        strides: Any = None,
        pad_type: str = "valid",
        pad: Any = None,
        ceil_mode: bool = False,
        exclude_padding_from_average: bool = False,
    ) -> Tensor:
        rank, kernel = x.dim() - 2, numbers(kernel_sizes)
        steps, window = numbers(strides) or [1] * rank, torch.empty(1, 1, *kernel)
        around = _padding(x, window, steps, pad_type, pad, [1] * rank)
        padded = functional.pad(x, around, value=0.0 if average else -math.inf)
        if not average:
            compute = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[rank - 1]
            best: Tensor = compute(padded, kernel, steps, ceil_mode=ceil_mode)
            return best
        average_of = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[rank - 1]
        found: Tensor = average_of(padded, kernel, steps, ceil_mode=ceil_mode)
        if exclude_padding_from_average and any(around):
            found = found / average_of(functional.pad(torch.ones_like(x), around), kernel, steps, ceil_mode=ceil_mode)
        return found

    return pooled


def _attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask)


def _cumsum(x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    turned = x.flip(axis) if reverse else x
    sums = turned.cumsum(axis).to(x.dtype) - (turned if exclusive else 0)
    return sums.flip(axis) if reverse else sums


def _clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    return x.clamp(alpha, beta)


def _softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    shape = [1, -1, *[1] * (x.dim() - 2)]
    return alpha.reshape(shape) * functional.softplus(beta.reshape(shape) * x)


def _einsum(values: list[Tensor], equation: str) -> Tensor:
    return torch.einsum(equation, *values)


ELEMENTWISE: Mapping[str, Compute] = {
    **{name: _unary(getattr(torch, name)) for name in (
        "abs", "acos", "asin", "atan", "atanh", "ceil", "cos", "cosh", "erf", "exp", "exp2", "floor", "logical_not", "relu",
        "round", "sigmoid", "sign", "sin", "sinh", "sqrt", "square", "tan", "tanh",
    )},
    **{name: _unary(getattr(functional, name)) for name in ("relu6", "silu", "softplus", "softsign")},
    "log": lambda x, epsilon=1e-45: torch.log(_tensor(x) + epsilon),
    "rsqrt": lambda x, epsilon=1e-12: torch.rsqrt(_tensor(x) + epsilon),
    "inverse": lambda x, epsilon=1e-4: 1 / (_tensor(x) + epsilon),
    "leaky_relu": lambda x, alpha=0.01: functional.leaky_relu(x, alpha),
    "elu": lambda x, alpha=1.0: functional.elu(x, alpha),
    "prelu": lambda x, alpha: functional.prelu(x, alpha),
    "sigmoid_hard": lambda x, alpha=0.2, beta=0.5: (alpha * x + beta).clamp(0, 1),
    "threshold": lambda x, alpha: x.clamp(min=alpha),
    "linear_activation": lambda x, alpha, beta=0.0: alpha * x + beta,
    "clip": _clip,
    "gelu": _gelu,
    "softplus_parametric": _softplus_parametric,
    "softmax": lambda x, axis=-1: functional.softmax(x, dim=axis),
    "add": _binary(torch.add),
    "sub": _binary(torch.sub),
    "mul": _binary(torch.mul),
    "real_div": _binary(torch.true_divide),
    "floor_div": _binary(torch.floor_divide),
    "mod": _binary(torch.remainder),
    "pow": _binary(torch.pow),
    "maximum": lambda x, y: torch.maximum(_tensor(x), _tensor(y)),
    "minimum": lambda x, y: torch.minimum(_tensor(x), _tensor(y)),
    "equal": _binary(torch.eq),
    "not_equal": _binary(torch.ne),
    "greater": _binary(torch.gt),
    "greater_equal": _binary(torch.ge),
    "less": _binary(torch.lt),
    "less_equal": _binary(torch.le),
    "logical_and": lambda x, y: torch.logical_and(_tensor(x), _tensor(y)),
    "logical_or": lambda x, y: torch.logical_or(_tensor(x), _tensor(y)),
    "logical_xor": lambda x, y: torch.logical_xor(_tensor(x), _tensor(y)),
    "select": lambda cond, a, b: torch.where(_tensor(cond).bool(), a, b),
}  # fmt: skip

OPERATIONS: Mapping[str, Compute] = {
    **ELEMENTWISE,
    **SHAPES,
    "linear": _linear,
    "matmul": _matmul,
    "einsum": _einsum,
    "layer_norm": _layer_norm,
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "conv": _conv,
    "max_pool": _pool(average=False),
    "avg_pool": _pool(average=True),
    "scaled_dot_product_attention": _attention,
    "cumsum": _cumsum,
    "reduce_mean": _reduce(torch.mean),
    "reduce_sum": _reduce(lambda x, dim, keepdim: torch.sum(x, dim=dim, keepdim=keepdim).to(x.dtype)),
    "reduce_max": _reduce(torch.amax),
    "reduce_min": _reduce(torch.amin),
    "reduce_prod": _reduce(lambda x, dim, keepdim: functools.reduce(
        lambda found, axis: found.prod(axis, keepdim=True), dim, x
    ) if keepdim else functools.reduce(lambda found, axis: found.prod(axis), sorted(dim, reverse=True), x)),
    "reduce_sum_square": _reduce(lambda x, dim, keepdim: torch.sum(x * x, dim=dim, keepdim=keepdim)),
    "reduce_l2_norm": _reduce(lambda x, dim, keepdim: torch.sum(x * x, dim=dim, keepdim=keepdim).sqrt()),
    "reduce_log_sum_exp": _reduce(torch.logsumexp),
    "reduce_argmax": _argument_of(torch.argmax),
    "reduce_argmin": _argument_of(torch.argmin),
}  # fmt: skip
