"""The pure functions against naive references, and what they promise."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from leptonsdk_onnxruntime.calibrate import Histogram
from leptonsdk_onnxruntime.config import OnnxRuntimeConfig
from leptonsdk_onnxruntime.graph import add_initializer
from leptonsdk_onnxruntime.quantize_blocks import block_size, quantize_blocks
from leptonsdk_onnxruntime.quantize_graph import quantize_graph
from leptonsdk_onnxruntime.quantize_halves import short_scale, store_in_half
from leptonsdk_onnxruntime.quantize_scales import (
    activation_range_to_scale,
    histogram_range,
    quantize_weight,
    weight_scales,
)
from leptonsdk_onnxruntime.quantize_smooth import outlier_ratio, smoothing_factors


def error(weight, scale):
    return float(np.square(quantize_weight(weight, scale) * scale - weight).sum())


@pytest.mark.parametrize("axis", [0, 1])
def test_minmax_scales_are_the_largest_magnitude(axis):
    weight = np.random.default_rng(0).normal(size=(24, 40)).astype(np.float32)
    scale = weight_scales(weight, axis, method="minmax")
    for index in range(weight.shape[axis]):
        channel = weight[index] if axis == 0 else weight[:, index]
        assert np.take(scale, index, axis).item() == pytest.approx(max(abs(channel)) / 127, rel=1e-6)


def test_mse_scales_are_never_worse_for_any_channel():
    weight = np.random.default_rng(1).standard_t(3, size=(64, 48)).astype(np.float32)
    minmax, mse = weight_scales(weight, 1, method="minmax"), weight_scales(weight, 1, method="mse")
    worse = [error(weight[:, [i]], mse[:, [i]]) - error(weight[:, [i]], minmax[:, [i]]) for i in range(48)]
    assert max(worse) <= 1e-6
    low_bits = [weight_scales(weight, 1, method=method, bits=4) for method in ("minmax", "mse")]
    assert (low_bits[1] <= low_bits[0]).all()
    assert (low_bits[1] < low_bits[0]).any()


def test_one_scale_per_row_beats_one_for_the_table():
    rng = np.random.default_rng(2)
    table = (rng.normal(size=(500, 32)) * rng.lognormal(size=(500, 1))).astype(np.float32)
    one = np.full((1, 1), np.abs(table).max() / 127, np.float32)
    assert error(table, weight_scales(table, 0)) < 0.2 * error(table, one)


def test_rounding_is_naive_rounding():
    weight = np.random.default_rng(3).normal(size=(5, 7)).astype(np.float32)
    scale = weight_scales(weight, 1, bits=7)
    naive = [[max(-63, min(63, round(float(weight[i, j] / scale[0, j])))) for j in range(7)] for i in range(5)]
    assert quantize_weight(weight, scale, bits=7).tolist() == naive


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 0.0)])
def test_activation_ranges_hold_zero_exactly(low, high):
    scale, zero_point = activation_range_to_scale(low, high)
    assert 0 <= int(zero_point) <= 255
    if high > low:
        ends = (np.array([0.0, 255.0]) - int(zero_point)) * float(scale)
        assert ends[0] <= min(low, 0.0) + float(scale)
        assert ends[1] >= max(high, 0.0) - float(scale)


def test_a_histogram_counts_every_value_and_grows():
    rng, histogram = np.random.default_rng(4), Histogram()
    batches = [rng.normal(size=1000).astype(np.float32) * size for size in (1, 0.1, 30, 4)]
    for batch in batches:
        histogram.add(batch)
    assert histogram.counts.sum() == 4000
    assert histogram.high == pytest.approx(max(float(batch.max()) for batch in batches))
    assert histogram.limit >= max(float(np.abs(batch).max()) for batch in batches)
    assert histogram.counts.size == 4096


def test_mse_clips_outliers_where_that_pays():
    values = np.random.default_rng(5).normal(size=200_000).astype(np.float32)
    values[0] = 60.0
    histogram = Histogram()
    histogram.add(values)
    low, high = histogram_range(histogram.counts, histogram.edges, method="mse")
    assert high < 50

    def cost(low, high):
        scale, zero = activation_range_to_scale(low, high)
        integers = np.clip(np.rint(values / scale) + int(zero), 0, 255)
        return np.square((integers - int(zero)) * scale - values).sum()

    assert cost(low, high) < cost(float(values.min()), 60.0)


def test_percentile_leaves_the_tails_out():
    histogram = Histogram()
    histogram.add(np.linspace(-1, 1, 100_001, dtype=np.float32))
    low, high = histogram_range(histogram.counts, histogram.edges, method="percentile", percentile=90)
    assert (low, high) == (pytest.approx(-0.9, abs=2e-3), pytest.approx(0.9, abs=2e-3))


def test_smoothing_leaves_the_product_and_lowers_its_error():
    rng = np.random.default_rng(6)
    values = rng.normal(size=(400, 32)).astype(np.float32)
    values[:, 3] *= 40
    weight = rng.normal(size=(32, 24)).astype(np.float32)
    largest = np.abs(values).max(axis=0)
    assert outlier_ratio(largest) > 10
    factors = smoothing_factors(largest, weight, 0.85)
    np.testing.assert_allclose((values / factors) @ (weight * factors[:, None]), values @ weight, rtol=1e-3, atol=1e-3)

    def int8_error(x, w):
        scale, zero = activation_range_to_scale(float(x.min()), float(x.max()))
        rounded = (np.clip(np.rint(x / scale) + int(zero), 0, 255) - int(zero)) * scale
        weights = weight_scales(w, 1)
        return np.square(rounded @ (quantize_weight(w, weights) * weights) - values @ weight).mean()

    assert int8_error(values / factors, weight * factors[:, None]) < 0.5 * int8_error(values, weight)


def test_blocks_are_the_kernels_layout_and_round_back():
    weight = np.random.default_rng(7).normal(size=(10, 96)).astype(np.float32)
    size = block_size(96)
    assert size == 32
    integers, scale = quantize_blocks(weight, size)
    assert (integers.shape, integers.dtype, scale.shape) == ((10, 3, 32), np.uint8, (10, 3))
    back = ((integers.astype(np.float32) - 128) * scale[:, :, None]).reshape(10, 96)
    assert np.abs(back - weight).max() < np.abs(weight).max() / 127
    assert block_size(100) is None


def product_graph(weight, function=None):
    """A graph of one product, [rows, in] to [rows, out], perhaps of an activation function's output."""
    source = ir.val("x", dtype=ir.DataType.FLOAT, shape=ir.Shape(["rows", weight.shape[0]]))
    graph = ir.Graph([source], [], nodes=[], name="product", opset_imports={"": 20})
    activation = source
    if function is not None:
        graph.append(ir.node(function, [source]))
        activation = graph[-1].outputs[0]
    node = ir.node("MatMul", [activation, add_initializer(graph, "w", weight)])
    graph.append(node)
    node.outputs[0].name, node.outputs[0].dtype = "y", ir.DataType.FLOAT
    graph.outputs.append(node.outputs[0])
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize(("scales", "by_rows"), [("tensor", 0), ("row", 1), ("auto", 1)])
def test_with_a_scale_per_row_an_outlier_stays_in_its_row(scales, by_rows):
    rng = np.random.default_rng(8)
    weight = rng.normal(size=(64, 16)).astype(np.float32)
    values = rng.normal(size=(20, 64)).astype(np.float32)
    values[3] *= 1000
    values[4] = 0
    model = product_graph(weight)
    report = quantize_graph(model, OnnxRuntimeConfig(), scales=scales)
    assert (report.matmuls, report.matmuls_by_rows) == (1 - by_rows, by_rows)
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    [product] = session.run(None, {"x": values})
    others = [row for row in range(20) if row != 3]
    error = np.abs(product - values @ weight)[others].max() / np.abs(values @ weight)[others].max()
    assert np.isfinite(product).all()
    assert not product[4].any()
    assert (error < 0.02) == bool(by_rows)


@pytest.mark.parametrize("function", ["Gelu", "Relu"])
def test_after_an_activation_function_rows_need_no_magnitudes(function):
    rng = np.random.default_rng(10)
    weight = rng.normal(size=(64, 16)).astype(np.float32)
    values = rng.normal(size=(20, 64)).astype(np.float32) * np.geomspace(0.01, 300, 20, dtype=np.float32)[:, None]
    values[5] = -np.abs(values[5])  # nothing above 0 comes out of this row
    model = product_graph(weight, function)
    exact = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    [expected] = exact.run(None, {"x": values})
    quantize_graph(model, OnnxRuntimeConfig(), scales="row")
    assert "Abs" not in {node.op_type for node in model.graph}
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    [product] = session.run(None, {"x": values})
    reached = np.maximum(np.abs(values).max(1), 0.17)  # a row is at least as fine as Gelu's lowest value needs it
    assert (np.abs(product - expected).max(1) / reached).max() < 0.2


def test_rows_by_default_only_where_a_product_contracts():
    model = product_graph(np.random.default_rng(9).normal(size=(16, 64)).astype(np.float32))
    assert quantize_graph(model, OnnxRuntimeConfig(), scales="auto").matmuls == 1


def test_short_scales_are_said_by_fp16_where_it_can():
    scales = np.array([[1e-3, 0.5, 3e4]], np.float32)
    short = short_scale(scales)
    assert (short.astype(np.float16).astype(np.float32) == short).all()
    np.testing.assert_allclose(short, scales, rtol=1e-3)
    for beyond in (1e-8, 1e6):
        scales[0, 0] = beyond
        assert (short_scale(scales) == scales).all()


def vectors(**arrays):
    """A graph that adds up vectors, and looks up one of them; and what it computes."""
    rows = ir.Input("rows", ir.Shape(["n"]), ir.TensorType(ir.DataType.INT64))
    graph = ir.Graph([rows], [], nodes=[], opset_imports={"": 20}, name="vectors")
    values = [add_initializer(graph, name, array) for name, array in arrays.items()]
    nodes = [ir.node("Gather", [values[0], rows], name="looked_up")]
    total = values[0]
    for value in values[1:]:
        nodes.append(ir.node("Add", [total, value]))
        total = nodes[-1].outputs[0]
    graph.extend(nodes)
    for output in (nodes[0].outputs[0], total):
        output.type, output.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([None])
        graph.outputs.append(output)
    model = ir.Model(graph, ir_version=10)

    def compute():
        session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {"rows": np.array([3, 5], np.int64)})

    return model, compute


def test_long_vectors_are_stored_in_half_and_scales_only_if_that_changes_nothing():
    rng = np.random.default_rng(7)
    bias = rng.normal(size=300).astype(np.float32)
    model, compute = vectors(
        bias=bias,
        huge=np.full(300, 1e6, np.float32),
        short=np.ones(300, np.float32)[:1],
        a_scale=short_scale(np.abs(bias)[None]).reshape(-1),
        b_scale=np.abs(bias),
    )
    before = compute()
    assert store_in_half(model, exact="_scale") == 2
    halves = {name for name, value in model.graph.initializers.items() if value.dtype == ir.DataType.FLOAT16}
    assert halves == {"bias", "a_scale"}
    after = compute()
    assert after[0].dtype == np.float32
    np.testing.assert_allclose(after[0], before[0], rtol=1e-3)
    np.testing.assert_allclose(after[1], before[1], rtol=1e-6)
