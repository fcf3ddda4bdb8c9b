"""A checkpoint's own integers in the graph: constants that OpenVINO decompresses inside its products. Nothing is rounded anew.

Symmetric integers of up to 4 bits stand as ``i4``, of up to 8 as ``i8``; those with zero points are shifted to ``u2``, ``u4`` and
``u8``, as OpenVINO's kernels have no signed zero points; 2 bits without stand as ``u2`` with a zero point of 2. NormalFloat4 is a
type of OpenVINO's own. Scales keep their dtype and their shape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset14 as ops
import torch
from numpy.typing import NDArray

from leptonsdk.errors import ExportError, UsageError
from leptonsdk.quantization import CodebookTensor, QuantizedTensor
from leptonsdk.quantization.tensor_codebook import AnyTensor
from leptonsdk_openvino.config import why_not_packed
from leptonsdk_openvino.graph import FLOATS, constants, module_of, readers
from leptonsdk_openvino.graph_integers import BITS


def check_holds(quantized: Mapping[str, AnyTensor]) -> None:
    """Raise a `UsageError` that names the layers whose integers OpenVINO cannot hold, or when there are none at all."""
    if not quantized:
        raise UsageError(
            "the checkpoint carries no integers to pack",
            hint="quantize it first (rtn, gptq, qat), or ask for int8-weights or int4-weights",
        )
    reasons: dict[str, list[str]] = {}
    for name, tensor in quantized.items():
        reason = why_not_packed(tensor.scheme)
        if isinstance(tensor, CodebookTensor) and reason is None and not _is_normal_float(tensor):
            reason = "its codebook is not OpenVINO's NormalFloat4"
        if reason is not None:
            reasons.setdefault(f"{tensor.scheme.name}: {reason}", []).append(name)
    if reasons:
        raise UsageError(
            "OpenVINO cannot hold these weights as they are:\n"
            + "\n".join(f"  {reason}: {', '.join(names)}" for reason, names in reasons.items()),
            hint="it holds integers of 2 to 8 bits and NormalFloat4; or ask for precision fp32 or fp16, and the numbers that "
            "they stand for are exported",
        )


def lower(
    graphs: Iterable[ov.Model], quantized: Mapping[str, AnyTensor], in_bytes: Container[str] = ()
) -> dict[str, Any]:
    """Put a checkpoint's integers into float graphs, in place.

    Args:
        graphs: Traced from the checkpoint's model, which computes with the numbers that the integers stand for.
        quantized: By module name.
        in_bytes: Modules whose integers take a byte each, however few bits they have.

    Returns:
        What was done, for the artifact's details.

    Raises:
        ExportError: A module's weight is not in the graphs, or is another one there.
    """
    found: set[str] = set()
    kinds: Counter[str] = Counter()
    kept: list[str] = []
    for graph in graphs:
        for constant in list(constants(graph)):
            nodes = readers(constant)
            if constant.get_element_type() not in FLOATS or len(constant.shape) != 2:
                continue  # a lookup's axis, say
            name = next((module_of(node) for node in nodes if module_of(node) in quantized), None)
            if name is None:
                kept += [module_of(node) for node in nodes if node.get_type_name() == "MatMul"]
                continue
            tensor = quantized[name]
            _check_same(name, constant, tensor)
            least = 8 if name in in_bytes else 2
            weight, kind = compressed_weight(tensor, str(constant.get_friendly_name()), least)
            # A table that the output layer shares is one constant: lookups read the integers too.
            constant.output(0).replace(weight.output(0))
            found.update(module_of(node) for node in nodes)
            kinds[kind] += 1
        graph.validate_nodes_and_infer_types()
    if missing := sorted(quantized.keys() - found):
        raise ExportError(
            f"the traced graph has no weight for {', '.join(missing)}",
            hint="its product is not a plain one there; quantize without these modules",
        )
    return {"weights": dict(kinds), "kept_in_float": sorted(set(kept)), "activations": "float"}


def compressed_weight(tensor: AnyTensor, name: str, least_bits: int = 2) -> tuple[ov.Node, str]:
    """The nodes that make a weight ``[out, in]`` of its integers, and the type that holds these, of that many bits or more."""
    groups = tensor.scheme.group_size
    rows, columns = tensor.shape
    shape = [rows, columns // groups, groups] if groups else [rows, columns]
    if isinstance(tensor, CodebookTensor):
        values, zeros, kind = tensor.indices.cpu().numpy(), None, "nf4"
    else:
        values, zeros, kind = _unsigned(tensor, least_bits)
    node = ops.convert(_constant(values.reshape(shape), kind, name), "f32")
    if zeros is not None:
        zeros = zeros.reshape(*zeros.shape, 1) if groups and zeros.ndim else zeros
        zero = ops.convert(_constant(zeros, kind, f"{name}/zero_point"), "f32")
        node = ops.subtract(node, zero, name=f"{name}/shifted")
    assert tensor.scale is not None
    node = ops.multiply(node, _scale(tensor.scale, bool(groups), name), name=f"{name}/scaled")
    if groups:
        node = ops.reshape(node, np.array([rows, columns]), special_zero=False, name=f"{name}/whole")
    return node, kind


def _unsigned(tensor: QuantizedTensor, least_bits: int) -> tuple[NDArray[Any], NDArray[Any] | None, str]:
    """Integers and zero points as OpenVINO's smallest type holds them."""
    bits = next(size for size in (2, 4, 8) if size >= max(tensor.scheme.num_bits, least_bits))
    values = tensor.integers.cpu().numpy().astype(np.int16)
    if tensor.zero_point is None and bits > 2:
        return values.astype(np.int8), None, f"i{bits}"
    middle = 1 << (bits - 1)
    zeros = np.zeros(tensor.scale.shape, np.int16)
    if tensor.zero_point is not None:
        zeros = tensor.zero_point.cpu().numpy().astype(np.int16)
    return (values + middle).astype(np.uint8), (zeros + middle).astype(np.uint8), f"u{bits}"


def _constant(values: NDArray[Any], kind: str, name: str) -> ov.Node:
    """A constant whose integers are packed from the lowest bits of each byte on."""
    tensor = ov.Tensor(getattr(ov.Type, kind), list(values.shape))
    bits = BITS[kind]
    flat = values.reshape(-1).astype(np.uint8) & ((1 << bits) - 1)
    if bits < 8:
        flat = np.pad(flat, (0, -flat.size % (8 // bits))).reshape(-1, 8 // bits)
        flat = (flat << np.arange(0, 8, bits, dtype=np.uint8)).sum(axis=1).astype(np.uint8)
    data = tensor.data
    data[...] = flat.view(data.dtype).reshape(data.shape)
    return ops.constant(tensor, name=name)


def _scale(scale: torch.Tensor, groups: bool, name: str) -> ov.Node:
    scale = scale.detach().cpu()
    array = scale.half().numpy() if scale.dtype == torch.float16 else scale.float().numpy()
    node = ops.constant(array[..., None] if groups else array, name=f"{name}/scale")
    return node if array.dtype == np.float32 else ops.convert(node, "f32")


def _check_same(name: str, constant: ov.Node, tensor: AnyTensor) -> None:
    traced = torch.from_numpy(np.array(constant.data))
    if tuple(traced.shape) != tensor.shape or not torch.equal(traced, tensor.dequantize(traced.dtype)):
        raise ExportError(
            "the model's weight is not what its integers stand for",
            where=name,
            hint="something changed the weight after it was quantized",
        )


def _is_normal_float(tensor: CodebookTensor) -> bool:
    from leptonsdk.quantization.codebooks import NF4

    wanted = torch.tensor(NF4).to(tensor.codebook.dtype)
    return len(tensor.codebook) == 1 and torch.equal(tensor.codebook[0].cpu(), wanted)
