"""What coremltools 9.0 needs to convert transformers' models. Harmless where it is not needed; to be dropped piece by piece."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder
from coremltools.converters.mil.frontend.torch import ops as torch_ops
from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY, register_torch_op
from coremltools.converters.mil.mil import types


@functools.cache
def patch_converter() -> None:
    """Replace ``_cast`` (coremltools up to 9.0 with numpy 2.4 and later; 9.1 needs no patch), and add ``new_ones`` (to 9.0).

    ``_cast`` calls ``int(array)`` on arrays of one element and one dimension, which numpy 2.4 refuses. transformers' mask
    functions begin with ``new_ones(())``.
    """
    torch_ops._cast = _cast
    if _TORCH_OPS_REGISTRY.get_func("new_ones") is None:
        register_torch_op(torch_alias=["new_ones"])(_new_ones)


def _cast(context: Any, node: Any, dtype: type, dtype_name: str) -> None:
    (x,) = torch_ops._get_inputs(context, node, expected=1)
    if any(size != 1 for size in x.shape):
        raise ValueError("only one element can become a number")
    if x.can_be_folded_to_const():
        result = x if isinstance(x.val, dtype) else Builder.const(val=dtype(np.asarray(x.val).item()), name=node.name)
    else:
        if x.shape:
            x = Builder.squeeze(x=x, name=f"{node.name}_item")
        result = Builder.cast(x=x, dtype=dtype_name, name=node.name)
    context.add(result, node.name)


def _new_ones(context: Any, node: Any) -> None:
    given, size, dtype = torch_ops._get_inputs(context, node)[:3]
    kind = given.dtype if dtype is None else types.string_to_builtin(torch_ops.NUM_TO_DTYPE_STRING[dtype.val])
    one = np.asarray(1, dtype=types.nptype_from_builtin(kind))[()]
    shape = Builder.concat(values=size, axis=0) if isinstance(size, list) and size else size
    scalar = not isinstance(shape, list) and shape.val is not None and len(shape.val) == 0
    if shape == [] or scalar:
        context.add(Builder.const(val=one, name=node.name))
    else:
        context.add(Builder.fill(shape=shape, value=one, name=node.name))
