"""Models whose layers differ in width, and sparse ones, in the runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import leptonsdk as lepton
from leptonsdk.api import installed_plugins
from leptonsdk.quantization.layers import linear_layers
from leptonsdk.structure import find_units, remove_heads, remove_neurons
from leptonsdk.testing.models import tiny_checkpoint, tiny_inputs

BACKENDS = ("onnxruntime", "openvino")


def backend(name: str) -> Any:
    return installed_plugins().get("backend", name)


@pytest.mark.parametrize("runtime", BACKENDS)
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_layers_of_other_widths_compute_what_torch_computes(tmp_path: Path, name: str, runtime: str) -> None:
    """Llama's keep other numbers of key-value heads, so that their caches differ in shape."""
    checkpoint = tiny_checkpoint(name)
    attentions, ffns = find_units(checkpoint.model, tiny_inputs(checkpoint))
    assert remove_heads(checkpoint.model, attentions[0], [0]).groups < attentions[1].groups
    assert remove_neurons(checkpoint.model, ffns[1], list(range(0, ffns[1].neurons, 2))).neurons < ffns[0].neurons
    artifact = lepton.export(checkpoint, runtime, tmp_path / "out", precision="fp32")
    inputs = tiny_inputs(checkpoint, 1, seed=5, length=9)
    with torch.no_grad():
        expected = checkpoint.model(**inputs).logits
    assert torch.allclose(backend(runtime).load(artifact, threads=1)(**inputs).logits, expected, atol=2e-5)


@pytest.mark.parametrize(("runtime", "precision"), [("onnxruntime", "int8"), ("openvino", "int8-weights")])
def test_zeros_stay_zeros_in_integers(tmp_path: Path, runtime: str, precision: str) -> None:
    checkpoint, zeros = tiny_checkpoint("bert"), 0
    for layer in linear_layers(checkpoint.model).values():
        weight = layer.weight.data
        weight[weight.abs() < weight.abs().quantile(0.6)] = 0
        zeros += int((weight == 0).sum())
    artifact = lepton.export(checkpoint, runtime, tmp_path / "out", precision=precision)
    profile = backend(runtime).weights(artifact)
    assert profile is not None
    assert profile.bits_per_weight < 16
    assert profile.zeros >= zeros
