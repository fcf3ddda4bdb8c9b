"""Lowering a checkpoint's integers and codebooks: the very same numbers in the program, nothing rounded again.

| in the checkpoint | in the program |
|---|---|
| 8, 7, 5 bits | int8 data, `constexpr_blockwise_shift_scale` |
| 4 bits | int4 data, the same operation |
| 6, 3, 2 bits | indices into a table of the integers (`constexpr_lut_to_dense`), the same operation on what it gives |
| codebooks of 8, 6, 4, 3, 2 bits | indices and codebooks, `constexpr_lut_to_dense` |
| codebooks with a scale (NF4) | the same, and `constexpr_blockwise_shift_scale` |

Scales may be negative; zero points become offsets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil import Builder
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.pass_registry import register_pass

from leptonsdk.errors import ExportError, UsageError
from leptonsdk.quantization import CodebookTensor, QuantizedTensor
from leptonsdk.quantization.tensor_codebook import AnyTensor
from leptonsdk_coreml.config import no_place
from leptonsdk_coreml.quantize_weights import key

_DIRECT = {4: "int4", 5: "int8", 7: "int8", 8: "int8"}


def check_packable(quantized: Mapping[str, AnyTensor]) -> None:
    """Raise a `UsageError` that names every layer whose integers have no place in an ML program."""
    unfit = [name for name, tensor in quantized.items() if no_place(tensor.scheme) is not None]
    if unfit:
        raise UsageError(
            f"Core ML cannot hold the weights of {', '.join(unfit)} as they are: {no_place(quantized[unfit[0]].scheme)}",
            where="coreml packed",
            hint="ask for another precision, and the numbers that they stand for are exported",
        )


def fits_fp16(quantized: Mapping[str, AnyTensor]) -> bool:
    """Whether all scales and codebooks are fp16 numbers, so that a program in fp16 changes none of them."""
    floats = [
        part
        for tensor in quantized.values()
        for part in (tensor.scale, tensor.codebook if isinstance(tensor, CodebookTensor) else None)
        if part is not None
    ]
    return all(torch.equal(part.half().float(), part.float()) for part in floats)


class Packer:
    """Puts integers in the place of the floats that were made from them.

    Args:
        quantized: By module name.
        weights: Each of these modules' weight as the model has it, ``[out, in]``.

    Attributes:
        places: The operation that makes each module's weight, by module name, once it has run.
    """

    def __init__(self, quantized: Mapping[str, AnyTensor], weights: Mapping[str, torch.Tensor]) -> None:
        self.quantized = quantized
        self.places: dict[str, str] = {}
        self._keys = {name: key(weight.detach().float().numpy()) for name, weight in weights.items()}
        self._modules = {found: name for name, found in self._keys.items()}

    def __call__(self, prog: Any) -> None:
        for function in prog.functions.values():
            with function:
                self._over(function)
        lost = sorted(name for name, found in self._keys.items() if self._modules[found] not in self.places)
        if lost:
            raise ExportError(
                f"the converter changed weights, so that their integers have no place: {', '.join(lost)}",
                where="coreml packed",
                hint="export with another precision",
            )

    def _over(self, block: Any) -> None:
        for op in list(block.operations):
            value = op.outputs[0].val if op.op_type == "const" else None
            if not isinstance(value, np.ndarray) or value.ndim != 2 or value.dtype.kind != "f":
                continue
            module, turned = self._modules.get(key(value)), False
            if module is None:
                module, turned = self._modules.get(key(value.T)), True
            if module is not None:
                self._replace(block, op, module, turned)

    def _replace(self, block: Any, op: Any, module: str, turned: bool) -> None:
        value, tensor = op.outputs[0].val, self.quantized[module]
        name = f"packed_{re.sub(r'[^0-9A-Za-z_]', '_', module)}"  # other characters are lost on saving
        if isinstance(tensor, QuantizedTensor):
            found = _integers(tensor, value.dtype, turned, name, op)
        else:
            found = _codebook(tensor, value.dtype, turned, name, op)
        made = found.op.materialized_val_inference()
        if not np.allclose(made, value, rtol=1e-2, atol=1e-3 * float(np.abs(value).max())):
            raise ExportError(f"the integers of {module} do not make its weight", where="coreml packed")
        block.replace_uses_of_var_after_op(anchor_op=op, old_var=op.outputs[0], new_var=found, no_check_var_types=True)
        block.remove_ops([op])
        self.places[module] = found.name


def _integers(tensor: QuantizedTensor, dtype: Any, turned: bool, name: str, before: Any) -> Any:
    bits, scheme = tensor.scheme.num_bits, tensor.scheme
    kind = _DIRECT.get(bits, "int8")
    if bits in _DIRECT:
        data: Any = _array(tensor.integers, kind, turned)
    else:
        table = np.arange(scheme.minimum, scheme.maximum + 1, dtype=np.int8).reshape(1, 1, -1, 1)
        places = _array(tensor.integers.int() - scheme.minimum, f"uint{bits}", turned)
        data = Builder.constexpr_lut_to_dense(indices=places, lut=table, before_op=before, name=f"{name}_integers")
    offset = None if tensor.zero_point is None else _array(tensor.zero_point, kind, turned)
    scale = _turn(tensor.scale.float().numpy().astype(dtype), turned)
    return Builder.constexpr_blockwise_shift_scale(data=data, scale=scale, offset=offset, before_op=before, name=name)


def _codebook(tensor: CodebookTensor, dtype: Any, turned: bool, name: str, before: Any) -> Any:
    shape = (1, 1) if tensor.scale is not None else tensor.scheme.scale_shape(tensor.shape)
    table = tensor.codebook.float().numpy().astype(dtype).reshape(*shape, -1, 1)
    indices = _array(tensor.indices, f"uint{tensor.scheme.num_bits}", turned)
    table = np.ascontiguousarray(table.swapaxes(0, 1)) if turned else table
    scaled = tensor.scale is not None
    found = Builder.constexpr_lut_to_dense(
        indices=indices, lut=table, before_op=before, name=f"{name}_values" if scaled else name
    )
    if tensor.scale is None:
        return found
    scale = _turn(tensor.scale.float().numpy().astype(dtype), turned)
    return Builder.constexpr_blockwise_shift_scale(data=found, scale=scale, before_op=before, name=name)


def _array(tensor: torch.Tensor, kind: str, turned: bool) -> np.ndarray:
    return _turn(tensor.cpu().numpy().astype(types.nptype_from_builtin(types.string_to_builtin(kind))), turned)


def _turn(array: np.ndarray, turned: bool) -> np.ndarray:
    return np.ascontiguousarray(array.T) if turned else array


@register_pass(namespace="leptonsdk")
class pack_weights(AbstractGraphPass):  # type: ignore[misc]  # noqa: N801  the name of the pass
    """The converter's last pass: runs a `Packer`, which comes as the option ``packer``."""

    packer: Packer | None = None

    def apply(self, prog: Any) -> None:
        if self.packer is not None:
            self.packer(prog)
        self.packer = None


def packing_pipeline(packer: Packer) -> Any:
    """The converter's own passes, then `pack_weights`."""
    pipeline = ct.PassPipeline()
    pipeline.append_pass("leptonsdk::pack_weights")
    pipeline.set_options("leptonsdk::pack_weights", {"packer": packer})
    return pipeline
