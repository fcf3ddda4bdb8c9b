"""Attention in the graph: one operator of standard ONNX, with as little around it as its source allows."""

from __future__ import annotations

from collections import Counter

import onnx
import onnx_ir as ir
import pytest
import torch
from leptonsdk_onnxruntime import OnnxRuntimeBackend, export
from leptonsdk_onnxruntime.graph_attention import simplify_attention


def operators(artifact):
    graph = onnx.load(artifact.folder / artifact.entry).graph
    return Counter(node.op_type for node in graph.node), [node for node in graph.node if node.op_type == "Attention"]


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_encoders_keep_no_detour_around_attention(exports, name):
    counts, attentions = operators(exports(name))
    assert len(attentions) == 2
    for node in attentions:
        heads = {attribute.name: attribute.i for attribute in node.attribute}
        assert (heads["q_num_heads"], heads["kv_num_heads"]) == (4, 4)
        assert bool(len(node.input) > 3 and node.input[3]) == (name == "bert")  # a picture has no padding to mask
    assert not {"Where", "GatherND", "Softmax", "ReduceSum"} & set(counts)
    assert counts["Transpose"] == (1 if name == "vit" else 0)  # a vision model's patches


def test_grouped_keys_are_not_copied_for_every_head(exports):
    counts, attentions = operators(exports("llama"))
    assert len(attentions) == 2
    assert counts["Expand"] <= 3  # the mask's
    model = ir.load(exports("llama").folder / exports("llama").entry)
    keys = {str(node.inputs[1].name) for node in model.graph if node.op_type == "Attention"}
    assert keys == {"present.0.key", "present.1.key"}


@pytest.mark.parametrize("name", ["bert", "modernbert", "vit", "llama", "gpt2"])
def test_simplifying_twice_changes_nothing(name, tiny):
    model, batch = tiny.models[name]().model, tiny.batch(name, 2)
    traced = (export.trace_decoder if name in ("llama", "gpt2") else export.trace)(model, batch, 23)
    simplify_attention(traced.model, traced.dims)
    before = [node.op_type for node in traced.model.graph]
    assert simplify_attention(traced.model, traced.dims) == 0
    assert [node.op_type for node in traced.model.graph] == before


@pytest.mark.parametrize("name", ["bert", "vit", "llama"])
def test_older_opsets_are_written_without_the_operator(exports, name, tiny):
    artifact = exports(name, opset=20)
    counts, attentions = operators(artifact)
    assert not attentions
    assert counts["Softmax"] == 2
    assert artifact.details["opset"] == 20
    batch = tiny.batch(name, 3, 9, seed=4)
    with torch.no_grad():
        expected = tiny.models[name]().model(**batch).logits
    kept = batch["attention_mask"].bool() if expected.dim() == 3 else slice(None)
    found = OnnxRuntimeBackend.load(artifact, threads=2)(**batch).logits
    torch.testing.assert_close(found[kept], expected[kept], atol=2e-5, rtol=1e-4)


def test_static_products_add_their_biases_themselves(exports):
    model = ir.load(exports("bert", "int8-static").folder / exports("bert", "int8-static").entry)
    products = {value for node in model.graph for value in node.outputs if node.op_type == "MatMulIntegerToFloat"}
    assert sum(len(value.producer().inputs) == 7 for value in products) >= 8
    for node in model.graph:
        if node.op_type == "Add" and products & set(node.inputs):
            assert not any(value.is_initializer() for value in node.inputs)
