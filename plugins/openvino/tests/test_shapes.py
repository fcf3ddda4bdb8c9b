"""Shapes that get a compiled graph of their own."""

from __future__ import annotations

import pytest
import torch
from leptonsdk_openvino import OpenVINOBackend, OpenVINOConfig
from leptonsdk_openvino.runner_shapes import fixed_shapes

from leptonsdk.checkpoint import Checkpoint
from leptonsdk.errors import ExportError, UsageError

BERT, VIT = {"batch_size": 1, "sequence_length": 8}, {"batch_size": 3}


@pytest.mark.parametrize(("name", "shape"), [("bert", BERT), ("vit", VIT)])
def test_a_shape_that_is_named_is_computed_by_a_graph_of_its_own(exports, make, name, shape):
    artifact = exports(name, static_shapes=[shape])
    named, plain = (OpenVINOBackend.load(a, threads=1) for a in (artifact, exports(name)))
    assert not named._requests
    for rows in (2, shape["batch_size"], 5, shape["batch_size"]):
        batch = make.batch(name, rows, 8, seed=rows)
        torch.testing.assert_close(named(**batch).logits, plain(**batch).logits, atol=1e-5, rtol=1e-5)
    (request,) = named._requests.values()
    ports = request.get_compiled_model().inputs
    assert all(port.get_partial_shape().is_static for port in ports)
    assert ports[0].shape[0] == shape["batch_size"]
    assert not plain._requests


def test_an_axis_that_stays_open_is_named(exports):
    with pytest.raises(ExportError, match="axis 1 of the input 'input_ids' varies.*say `sequence_length` too"):
        exports("bert", static_shapes=[{"batch_size": 1}])


def test_axes_without_a_name_are_a_real_batchs():
    ports = [{"name": "pixel_values", "shape": [None, 3, None, 16]}]
    assert fixed_shapes(ports, VIT, {"pixel_values": (8, 3, 14, 16)}) == {"pixel_values": [3, 3, 14, 16]}


def test_models_that_generate_are_refused_before_work_starts(make, tmp_path):
    backend = OpenVINOBackend(OpenVINOConfig(static_shapes=[BERT]))
    for name in ("llama", "whisper"):
        with pytest.raises(UsageError, match="a model that generates has no shape of its own"):
            backend.export(Checkpoint.of(make.model(name)), tmp_path, make.context(name, tmp_path / name))
    assert not list(tmp_path.rglob("*.xml"))
