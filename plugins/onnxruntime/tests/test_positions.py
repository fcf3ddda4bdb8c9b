"""What reads one position only is computed at that position only."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from leptonsdk_onnxruntime.export_torch import trace
from leptonsdk_onnxruntime.graph import float_matrix
from leptonsdk_onnxruntime.graph_attention import simplify_attention
from leptonsdk_onnxruntime.graph_positions import narrow


def traced(model, batch) -> ir.Model:
    with torch.no_grad():
        found = trace(model, batch, 23)
    simplify_attention(found.model, found.dims)
    return found.model


def run(graph: ir.Model, batch, folder) -> np.ndarray:
    path = folder / "model.onnx"
    ir.save(graph, path)
    session = ort.InferenceSession(path)
    names = {value.name for value in session.get_inputs()}
    result: np.ndarray = session.run(None, {name: x.numpy() for name, x in batch.items() if name in names})[0]
    return result


def at_one_position(graph: ir.Model) -> int:
    products = [node for node in graph.graph if node.op_type == "MatMul" and float_matrix(node.inputs[1]) is not None]
    return sum(len(node.outputs[0].shape) == 3 and node.outputs[0].shape[1] == 1 for node in products)


def batch_of(name: str, rows: int, length: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    if name == "vit":
        return {"pixel_values": torch.randn(rows, 3, 16, 16, generator=generator)}
    mask = torch.ones(rows, length, dtype=torch.long)
    mask[1:, length // 2 :] = 0
    return {"input_ids": torch.randint(3, 40, (rows, length), generator=generator), "attention_mask": mask}


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "vit"])
def test_the_last_block_of_a_classifier_sees_one_position(tiny, tmp_path, name):
    model = tiny.build(name)
    graph = traced(model, batch_of(name, 3, 9))
    # Query, attention's output, the two of the feed-forward network; keys and values see all.
    assert narrow(graph) == 4
    assert at_one_position(graph) == 4
    for rows, length in ((1, 1), (5, 13)):
        batch = batch_of(name, rows, length)
        with torch.no_grad():
            expected = model(**batch).logits.numpy()
        np.testing.assert_allclose(run(graph, batch, tmp_path), expected, atol=2e-5)


def test_a_model_that_answers_at_every_position_stays_whole(tiny):
    graph = traced(tiny.build("bert").bert, batch_of("bert", 2, 8))
    assert narrow(graph) == 0  # its hidden states are an output beside the pooled one
    assert at_one_position(graph) == 0
