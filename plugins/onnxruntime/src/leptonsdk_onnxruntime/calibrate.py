"""Activation ranges from calibration data (static quantization), in memory that does not grow with the data.

Each activation that feeds a quantized `MatMul` is read while the float graph runs, and only a histogram of it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from leptonsdk.errors import UsageError
from leptonsdk.hooks import StepContext
from leptonsdk_onnxruntime.config import OnnxRuntimeConfig
from leptonsdk_onnxruntime.quantize_graph import find_linears
from leptonsdk_onnxruntime.quantize_scales import activation_range_to_scale, histogram_range
from leptonsdk_onnxruntime.quantize_smooth import smooth_graph
from leptonsdk_onnxruntime.runner import OnnxRunner, open_runner

Batch = Mapping[str, torch.Tensor]
_BINS = 4096
_OUTLIER_RATIO = 3.0  # smooth activations whose largest channel is that many times their median one


class Histogram:
    """Counts of values between -limit and limit. When larger values come, neighbouring bins are merged and the limit doubles."""

    def __init__(self) -> None:
        self.limit = 0.0
        self.counts: NDArray[np.float64] = np.zeros(_BINS)
        self.low, self.high = np.inf, -np.inf

    def add(self, values: NDArray[np.float32]) -> None:
        """Count the values of one batch."""
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        largest = max(abs(low), abs(high), 1e-6)
        if self.limit == 0.0:
            self.limit = largest
        while self.limit < largest:
            quarter = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.pad(quarter, _BINS // 4)
            self.limit *= 2
        self.counts += np.histogram(values, bins=_BINS, range=(-self.limit, self.limit))[0]

    @property
    def edges(self) -> NDArray[np.float64]:
        return np.linspace(-self.limit, self.limit, _BINS + 1)


def calibrate(
    model: ir.Model, config: OnnxRuntimeConfig, batches: Callable[[], Iterable[Batch]], context: StepContext
) -> tuple[dict[str, tuple[np.float32, np.uint8]], dict[str, Any]]:
    """Scale and zero point of every activation that will be quantized, by value name, and a description.

    The graph is smoothed in place first. ``batches`` is called once for each pass over the data.

    Raises:
        UsageError: The batches hold no example.
    """
    smoothed = 0
    if config.smoothing > 0:
        largest: dict[str, NDArray[np.float32]] = {}
        for name, values in _watch(model, config, batches(), context):
            channels = np.abs(values).reshape(-1, values.shape[-1]).max(axis=0)
            largest[name] = np.maximum(largest.get(name, channels), channels)
        if largest:
            smoothed = smooth_graph(
                model, largest, strength=config.smoothing, ratio=_OUTLIER_RATIO, ignore=config.ignore
            )
    histograms: dict[str, Histogram] = {}
    for name, values in _watch(model, config, batches(), context):
        histograms.setdefault(name, Histogram()).add(values)
    if not histograms:
        raise UsageError("the calibration data holds no example", hint="check `data.calibration`")
    ranges = {}
    for name, histogram in histograms.items():
        low, high = histogram_range(
            histogram.counts,
            histogram.edges,
            method=config.calibration_method,
            percentile=config.calibration_percentile,
        )
        ranges[name] = activation_range_to_scale(max(low, histogram.low), min(high, histogram.high))
    described: dict[str, Any] = {
        "method": config.calibration_method,
        "samples": sum(next(iter(batch.values())).shape[0] for batch in batches()),
        "smoothing": config.smoothing,
        "smoothed": smoothed,
    }
    if config.calibration_method == "percentile":
        described["percentile"] = config.calibration_percentile
    return ranges, described


def _watch(
    model: ir.Model, config: OnnxRuntimeConfig, batches: Iterable[Batch], context: StepContext
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Every activation that will be quantized, batch by batch, by name; padded positions are left out."""
    names = sorted({str(linear.source.name) for linear in find_linears(model, config.ignore)})
    runner = _watching_runner(model, names, context)
    samples = 0
    for batch in batches:
        mask = batch.get("attention_mask")
        kept = None if mask is None or mask.dim() != 2 else mask.bool().numpy()
        for name, values in zip(names, runner.session.run(names, runner.full_feed(batch)), strict=True):
            yield name, _attended(values, kept)
        samples += next(iter(batch.values())).shape[0]
        context.progress(samples, config.calibration_samples, "calibrating")


def _watching_runner(model: ir.Model, names: list[str], context: StepContext) -> OnnxRunner:
    """The float graph with the watched activations among its outputs."""
    values = {str(value.name): value for node in model.graph for value in node.outputs}
    own = {str(value.name) for value in (*model.graph.outputs, *model.graph.inputs)}
    added = [values[name] for name in names if name not in own]
    folder = context.folder / "calibration"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    model.graph.outputs.extend(added)
    try:
        ir.save(model, path, external_data="model.onnx_data")
    finally:
        for _ in added:
            model.graph.outputs.pop()
    return open_runner(path, context.threads, "fp32")


def _attended(values: NDArray[np.float32], mask: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """The values at positions that are not padding."""
    if mask is not None and values.ndim == 3 and values.shape[:2] == mask.shape:
        return values[mask]
    return values
