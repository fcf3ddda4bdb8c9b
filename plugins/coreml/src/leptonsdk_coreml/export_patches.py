"""What coremltools 9.0 needs to convert transformers' models. Harmless where it is not needed; to be dropped piece by piece."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder
from coremltools.converters.mil.frontend.torch import ops as torch_ops


@functools.cache
def patch_converter() -> None:
    """Replace the converter's ``_cast`` (coremltools up to 9.0 with numpy 2.4 and later; 9.1 needs no patch).

    It calls ``int(array)`` on arrays of one element and one dimension, which numpy 2.4 refuses.
    """
    torch_ops._cast = _cast


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
