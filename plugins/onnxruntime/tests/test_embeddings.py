"""Word embeddings in 4 bits: what stands in the file, and what comes out of it."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from leptonsdk_onnxruntime import OnnxRuntimeBackend, OnnxRuntimeConfig
from leptonsdk_onnxruntime.graph import add_initializer, insert, replace
from leptonsdk_onnxruntime.quantize_graph import quantize_graph
from leptonsdk_onnxruntime.quantize_tables import pack_4_bits, unpack_4_bits
from pydantic import ValidationError

from leptonsdk.errors import UsageError
from leptonsdk.quantization import QuantizedTensor, Scheme

TABLE = "bert.embeddings.word_embeddings.weight"


def initializers(artifact):
    return ir.load(artifact.folder / artifact.entry).graph.initializers


def lookup_graph(table, *names, head=False):
    """A graph that looks tokens up in one table, for each input's name, and perhaps multiplies by the table's transpose."""
    inputs = [ir.val(name, dtype=ir.DataType.INT64, shape=ir.Shape(["batch", "length"])) for name in names]
    graph = ir.Graph(inputs, [], nodes=[], name="lookup", opset_imports={"": 23})
    stored = add_initializer(graph, "table", table)
    for value in inputs:
        graph.append(ir.node("Gather", [stored, value], attributes={"axis": 0}))
        rows = graph[-1].outputs[0]
        if head:
            graph.append(ir.node("Transpose", [stored], attributes={"perm": [1, 0]}))
            graph.append(ir.node("MatMul", [rows, graph[-1].outputs[0]]))
            rows = graph[-1].outputs[0]
        rows.name, rows.dtype = f"rows_of_{value.name}", ir.DataType.FLOAT
        graph.outputs.append(rows)
    return ir.Model(graph, ir_version=10)


def run(model, **feed):
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feed)


@pytest.mark.parametrize("block", [16, 32, 64, 128])
@pytest.mark.parametrize("opset", [20, 23])
def test_the_kernel_reads_the_integers_as_they_are_meant(block, opset):
    table = np.random.default_rng(0).normal(size=(40, 256)).astype(np.float32)
    model = lookup_graph(table, "input_ids")
    model.opset_imports[""] = opset
    report = quantize_graph(model, OnnxRuntimeConfig(embeddings="int4", embedding_block_size=block))
    assert (report.embeddings, report.embeddings_in_4_bits) == (1, 1)
    integers, scale = (
        model.graph.initializers[f"table.int4{part}"].const_value.numpy() for part in ("_quantized", "_scale")
    )
    assert scale.shape == (40, 256 // block)
    meant = QuantizedTensor(
        torch.from_numpy(unpack_4_bits(integers)),
        torch.from_numpy(scale),
        None,
        Scheme.resolve(bit_width=4, group_size=block),
    ).dequantize(torch.float32)
    ids = np.array([[0, 39, 7], [12, 12, 1]])
    [found] = run(model, input_ids=ids)
    exact = unpack_4_bits(integers).astype(np.float32) * np.repeat(scale.astype(np.float32), block, axis=1)
    np.testing.assert_array_equal(found, exact[ids])
    np.testing.assert_allclose(found, meant.numpy()[ids], rtol=2e-3, atol=1e-6)  # products are rounded to fp16
    assert np.sqrt(np.square(found - table[ids]).mean()) < 0.13


def test_packing_loses_nothing():
    integers = np.random.default_rng(0).integers(-8, 8, (5, 12)).astype(np.int8)
    assert pack_4_bits(integers).shape == (5, 6)
    np.testing.assert_array_equal(unpack_4_bits(pack_4_bits(integers)), integers)


def test_the_numbers_are_those_of_the_runtimes_own_operator():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(40, 64)).astype(np.float32)
    model = lookup_graph(table, "input_ids")
    quantize_graph(model, OnnxRuntimeConfig(embeddings="int4"))
    packed, scale = (model.graph.initializers[f"table.int4{p}"].const_value.numpy() for p in ("_quantized", "_scale"))
    peer = lookup_graph(table, "input_ids")
    graph, node = peer.graph, peer.graph[0]
    stored = add_initializer(graph, "packed", unpack_4_bits(packed).astype(ml_dtypes.int4))
    scales = add_initializer(graph, "scale", scale.astype(np.float32))
    options = {"block_size": 32, "gather_axis": 0, "quantize_axis": 1, "domain": "com.microsoft"}
    replace(node, insert(node, "GatherBlockQuantized", [stored, node.inputs[1], scales], **options)[0])
    graph.opset_imports["com.microsoft"] = 1
    ids = rng.integers(0, 40, (3, 5))
    np.testing.assert_array_equal(run(model, input_ids=ids)[0], run(peer, input_ids=ids)[0])


def test_the_table_is_packed_in_the_file(exports):
    plain, packed = exports("bert", "int8"), exports("bert", "int8", embeddings="int4")
    table = initializers(packed)[f"{TABLE}.int4_quantized"].const_value
    assert (table.dtype, table.shape) == (ir.DataType.UINT8, (200, 32))
    assert table.nbytes == 200 * 64 / 2
    assert initializers(packed)[f"{TABLE}.int4_scale"].const_value.dtype == ir.DataType.FLOAT16
    assert TABLE not in initializers(packed)
    saved = 200 * 64 / 2 + 200 * 4 - 200 * 2 * 2  # half of the integers; a scale per row for two in fp16
    sizes = [sum(v.const_value.nbytes for v in initializers(artifact).values()) for artifact in (plain, packed)]
    assert sizes[0] - sizes[1] == pytest.approx(saved, abs=100)
    files = [(artifact.folder / artifact.entry).stat().st_size for artifact in (plain, packed)]
    assert files[0] - files[1] > saved - 2000  # the nodes that unpack
    assert packed.details["quantization"]["embeddings_in_4_bits"] == 1
    assert packed.details["quantization"]["embeddings"] == plain.details["quantization"]["embeddings"] == 2
    bits = [OnnxRuntimeBackend.weights(artifact).bits_per_weight for artifact in (plain, packed)]
    assert bits[1] < bits[0]
    assert OnnxRuntimeBackend.weights(packed).parameters == OnnxRuntimeBackend.weights(plain).parameters


@pytest.mark.parametrize("precision", ["int8-dynamic", "int8-static"])
@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_outputs_stay_close(exports, tiny, name, precision):
    artifact = exports(name, precision, embeddings="int4")
    assert artifact.details["quantization"]["embeddings_in_4_bits"] == 1
    assert artifact.details["parity"]["relative_rms"] < 0.25
    batch = tiny.batch(name, 3, seed=5)
    with torch.inference_mode():
        expected = tiny.models[name]().model(**batch).logits
    found = OnnxRuntimeBackend.load(artifact, threads=1)(**batch).logits
    assert torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.97


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_table_that_the_output_layer_shares_stays_as_it_is(exports, name):
    shared = exports(name, "int8", embeddings="int4")
    assert shared.details["quantization"]["embeddings_in_4_bits"] == 0
    plain = exports(name, "int8")
    assert (shared.folder / shared.entry).stat().st_size == (plain.folder / plain.entry).stat().st_size


def test_only_tokens_are_looked_up_in_4_bits():
    table = np.random.default_rng(1).normal(size=(64, 32)).astype(np.float32)
    config = OnnxRuntimeConfig(embeddings="int4")
    assert quantize_graph(lookup_graph(table, "position_ids"), config).embeddings_in_4_bits == 0
    both = lookup_graph(table, "input_ids", "decoder_input_ids")
    assert quantize_graph(both, config).embeddings_in_4_bits == 2
    tables = [name for name, value in both.graph.initializers.items() if value.const_value.size > 4]
    assert sorted(tables) == ["table.int4_quantized", "table.int4_scale"]
    for ignore in ((), ("*",)):
        config = OnnxRuntimeConfig(embeddings="int4", ignore=ignore)
        assert quantize_graph(lookup_graph(table, "input_ids", head=True), config).embeddings_in_4_bits == 0


def test_embeddings_can_stay_in_float(exports):
    artifact = exports("bert", "int8", embeddings="float")
    assert artifact.details["quantization"]["embeddings"] == 0
    assert initializers(artifact)[TABLE].const_value.dtype == ir.DataType.FLOAT


def test_blocks_that_do_not_fit_are_an_error():
    with pytest.raises(ValidationError, match="embedding_block_size"):
        OnnxRuntimeConfig(embedding_block_size=48)
    table = np.zeros((64, 80), np.float32)
    config = OnnxRuntimeConfig(embeddings="int4", embedding_block_size=32)
    with pytest.raises(
        UsageError, match=r"table: its 80 columns do not divide into blocks of 32 \(`.*size: 16` does\)"
    ):
        quantize_graph(lookup_graph(table, "input_ids"), config)
    with pytest.raises(UsageError, match="use `embeddings: int8`"):
        quantize_graph(lookup_graph(np.zeros((64, 72), np.float32), "input_ids"), config)
