"""The one place that knows `transformers.exporters`, which calls itself experimental, and XNNPACK's quantizer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from leptonsdk.errors import ExportError
from leptonsdk.exporting import Inputs, quiet


def export_program(
    model: Any,
    inputs: Inputs,
    limits: Mapping[str, Mapping[int, int]],
    precision: str,
    calibration: Iterable[Inputs],
    folder: Path,
) -> list[str]:
    """Trace a model, quantize its linear layers, lower it to XNNPACK and write the program.

    Args:
        model: In eval mode.
        inputs: A batch, smaller than the limits.
        limits: The longest of each axis that varies, by input.
        precision: ``fp32``, ``int8-dynamic`` or ``int8-static``.
        calibration: Batches for ``int8-static``.
        folder: Gets ``model.pte`` and ``export.json``, with which transformers opens it again.

    Returns:
        The names of its outputs, in order.

    Raises:
        ExportError: The model cannot be traced or lowered.
    """
    with quiet(), torch.no_grad():
        from transformers.exporters import ExecutorchConfig, ExecutorchExporter, PT2EQuantizer

        options: dict[str, Any] = {"dynamic": True, "prefer_deferred_runtime_asserts_over_guards": True}
        options["dynamic_shapes"] = _axes(limits)
        if precision != "fp32":
            options["quantizer"] = PT2EQuantizer(_quantizer(precision), list(calibration))
        try:
            with _partitioned(precision), _without_cache(model):
                exported = ExecutorchExporter().export(model, dict(inputs), ExecutorchConfig(**options))
                found = exported(**inputs)
        except Exception as error:
            raise ExportError(
                f"{type(model).__name__} cannot be exported to ExecuTorch: {str(error).strip().splitlines()[0][:300]}",
                hint="the cause stands in the traceback; `transformers.exporters` may not support this model yet",
            ) from error
        exported.save_pretrained(folder)
    outputs = [name for name, value in found.items() if isinstance(value, torch.Tensor)]
    if len(outputs) != len(found):
        raise ExportError(
            f"{type(model).__name__} gives more than tensors: {', '.join(sorted(set(found) - set(outputs)))}"
        )
    return outputs


def _axes(limits: Mapping[str, Mapping[int, int]]) -> dict[str, dict[int, Any]]:
    """torch.export's terms: axes of one meaning share a dimension."""
    kinds: dict[tuple[int, int], Any] = {}
    for axes in limits.values():
        for axis, most in axes.items():
            name = ("batch", "length")[min(axis, 1)]
            kinds.setdefault((axis, most), torch.export.Dim(f"{name}_{axis}", min=1 if axis == 0 else 2, max=most))
    return {name: {axis: kinds[axis, most] for axis, most in axes.items()} for name, axes in limits.items()}


def _quantizer(precision: str) -> Any:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    class LinearLayers(XNNPACKQuantizer):  # type: ignore[misc]
        """Leaves the rest of the graph as it is: turning its integers into float attributes breaks mask lookups (BERT)."""

        def transform_for_annotation(self, model: Any) -> Any:
            return model

    config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=precision == "int8-dynamic")
    return LinearLayers().set_operator_type(torch.ops.aten.linear.default, config)


@contextmanager
def _partitioned(precision: str) -> Iterator[None]:
    """XNNPACK takes dynamically quantized layers one by one: several with one input (query, key, value) would be a cycle."""
    if precision != "int8-dynamic":
        yield
        return
    from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from transformers.exporters import exporter_executorch

    prepare = exporter_executorch.prepare_for_xnnpack

    def prepared(model: Any, inputs: Any) -> tuple[Any, Any, list[Any]]:
        model, inputs, rest = prepare(model, inputs)
        alone = XnnpackPartitioner(config_precisions=ConfigPrecisionType.DYNAMIC_QUANT, per_op_mode=True)
        return model, inputs, [alone, *rest]

    with patch.dict(exporter_executorch._BACKEND_PREPARE, xnnpack=prepared):
        yield


@contextmanager
def _without_cache(model: Any) -> Iterator[None]:
    """Keys and values are no outputs; and what the exporter sets on the model is set back."""
    before = getattr(model.config, "use_cache", None)
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    if before is not None:
        model.config.use_cache = False
    try:
        yield
    finally:
        if before is not None:
            model.config.use_cache = before
        for parameter, value in wanted:
            parameter.requires_grad_(value)
