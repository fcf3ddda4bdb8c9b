"""From a traced module to an ML program."""

from __future__ import annotations

from typing import Any

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY
from coremltools.converters.mil.frontend.torch.utils import sanitize_op_kind

from leptonsdk.errors import ExportError
from leptonsdk.exporting import quiet
from leptonsdk_coreml.config import CoreMLConfig
from leptonsdk_coreml.export_patches import patch_converter
from leptonsdk_coreml.export_trace import Traced

DEFAULT_LENGTH = 512
# A norm's mean of squares leaves fp16's range at activations of some thousands, which language models have at their first
# token. So does what is added to it before the root: an infinite mean makes that token's norm zero, without a NaN.
_KEPT_IN_FP32 = frozenset({"pow", "reduce_mean", "rsqrt"})


def convert(traced: Traced, config: CoreMLConfig, *, fp16: bool, pipeline: ct.PassPipeline | None = None) -> Any:
    """An `MLModel` that is not loaded.

    Args:
        traced: The model's forward.
        config: Largest sizes, and the oldest system.
        fp16: Compute in half precision, except a norm's mean of squares.
        pipeline: The converter's passes; default: its own.

    Raises:
        ExportError: There are operations that Core ML's converter does not know; it names them.
    """
    patch_converter()
    longest = config.max_length or traced.limit or DEFAULT_LENGTH
    axes = {  # without symbols' names, which coremltools keeps for itself after a conversion that fails
        "batch": ct.RangeDim(1, config.max_batch_size, default=1),
        "length": ct.RangeDim(1, longest, default=min(longest, 128)),
    }
    described = [
        ct.TensorType(
            name=name,
            shape=tuple(axes.get(size, size) if isinstance(size, str) else size for size in traced.sizes[name]),
            dtype=np.float32 if value.is_floating_point() else np.int32,
        )
        for name, value in traced.inputs.items()
    ]
    precision = ct.transform.FP16ComputePrecision(op_selector=_fits_fp16) if fp16 else ct.precision.FLOAT32
    with quiet():
        try:
            return ct.convert(
                traced.module,
                inputs=described,
                outputs=[ct.TensorType(name=name, dtype=np.float32) for name in traced.structure],
                minimum_deployment_target=getattr(ct.target, config.minimum_deployment_target),
                compute_precision=precision,
                pass_pipeline=pipeline,
                skip_model_load=True,
            )
        except ExportError:
            raise
        except Exception as error:
            unknown = unsupported(traced.module)
            said = f"operations that Core ML's converter does not know: {', '.join(unknown)}" if unknown else str(error)
            raise ExportError(
                f"the model cannot be converted: {said.strip().splitlines()[0][:500]}",
                where="coreml",
                hint="the cause stands in the traceback",
            ) from error


def _fits_fp16(op: Any) -> bool:
    given = (getattr(op, "x", None), getattr(op, "y", None))
    of_mean = any(value is not None and value.op is not None and value.op.op_type == "reduce_mean" for value in given)
    return op.op_type not in _KEPT_IN_FP32 and not (op.op_type == "add" and of_mean)


def unsupported(module: torch.jit.ScriptModule) -> list[str]:
    """The operations of a traced module that coremltools has no conversion for."""
    graph = module.inlined_graph
    kinds = {sanitize_op_kind(node.kind()) for node in graph.nodes() if node.kind().startswith("aten::")}
    return sorted(kind for kind in kinds if _TORCH_OPS_REGISTRY.get_func(kind) is None)
