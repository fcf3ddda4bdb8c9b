"""What reads one position only is computed at that position only."""

from __future__ import annotations

from collections import Counter

import numpy as np
import openvino as ov
import pytest
import torch
from leptonsdk_openvino.export_torch import trace
from leptonsdk_openvino.graph_positions import narrow


def run(graph: ov.Model, batch: dict[str, torch.Tensor]) -> np.ndarray:
    compiled = ov.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = {port.get_any_name() for port in compiled.inputs}
    result: np.ndarray = compiled({name: value.numpy() for name, value in batch.items() if name in names})[0]
    return result


def lengths(graph: ov.Model) -> Counter[bool]:
    """Products with a weight that see one position, and those that see all."""
    products = [node for node in graph.get_ordered_ops() if node.get_type_name() == "MatMul"]
    products = [node for node in products if len(node.output(0).get_partial_shape()) == 3]
    return Counter(node.output(0).get_partial_shape()[1].max_length == 1 for node in products)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "vit"])
def test_the_last_block_of_a_classifier_sees_one_position(tiny, make, name):
    model = tiny.build(name)
    with torch.no_grad():
        graph = trace(model, make.batch(name, 3, 9))
        whole = graph.clone()
        # Query, attention's output, the two of the feed-forward network; keys and values see all.
        assert narrow(graph) == 4
        assert lengths(graph)[True] - lengths(whole)[True] == 4
        for rows, length in ((1, 1), (5, 13)):
            batch = make.batch(name, rows, length, seed=3)
            np.testing.assert_allclose(run(graph, batch), run(whole, batch), atol=1e-6)
            np.testing.assert_allclose(run(graph, batch), model(**batch).logits.numpy(), atol=2e-5)


def test_a_model_that_answers_at_every_position_stays_whole(tiny, make):
    model = tiny.build("bert").bert
    with torch.no_grad():
        graph = trace(model, make.batch("bert", 2, 8))
    before = lengths(graph)
    assert narrow(graph) == 0  # its hidden states are an output beside the pooled one
    assert lengths(graph) == before


def test_a_position_in_the_middle_is_not_taken_early(tiny, make):
    class Middle(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model, self.config = model, model.config

        def forward(self, input_ids, attention_mask):
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[:, 1]

    with torch.no_grad():
        graph = ov.convert_model(Middle(tiny.build("bert").bert), example_input=dict(make.batch("bert", 2, 8)))
    assert narrow(graph) == 0
