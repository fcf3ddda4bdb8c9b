"""A checkpoint's integers, scales and codebooks, read back from the saved package bit for bit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from leptonsdk_coreml import CoreMLBackend, CoreMLConfig
from leptonsdk_coreml.runner_weights import packed_weights

import leptonsdk as lepton
from leptonsdk.checkpoint import Checkpoint
from leptonsdk.errors import UsageError
from leptonsdk.quantization import CodebookScheme, CodebookTensor, Scheme

NF4 = {"codebook": "nf4", "strategy": "group", "group_size": 16}
SCHEMES = {
    "8 bits by channel": {"bit_width": 8},
    "4 bits in groups": {"bit_width": 4, "group_size": 16},
    "4 bits in groups, asymmetric": {"bit_width": 4, "group_size": 16, "symmetric": False},
    "3 bits in groups, asymmetric": {"bit_width": 3, "group_size": 16, "symmetric": False},
    "5 bits": {"bit_width": 5, "group_size": -1},
    "codebook of 4 bits": {"scheme": "KMEANS4"},
    "codebooks of 3 bits in groups": {
        "scheme": {"codebook": "kmeans", "num_bits": 3, "strategy": "group", "group_size": 16}
    },
    "NF4": {"scheme": NF4},
}


def quantized(model, name: str, **scheme) -> Checkpoint:
    return lepton.quantize_model(Checkpoint.of(model(name, layers=1)), **scheme)


def halved(checkpoint: Checkpoint) -> Checkpoint:
    """Scales and codebooks that are fp16 numbers, every second scale negative, and the weights that they make."""
    tensors = {}
    for name, tensor in checkpoint.quantized.items():
        tensor = tensor.cast(torch.float16).cast(torch.float32)
        if not isinstance(tensor, CodebookTensor):
            scale = tensor.scale.clone()
            scale[::2] *= -1
            tensor = dataclasses.replace(tensor, scale=scale)
        tensors[name] = tensor
        checkpoint.model.get_submodule(name).weight.data.copy_(tensor.dequantize())
    return checkpoint.replace(quantized=tensors)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_what_stands_in_the_package_is_the_checkpoints(exports, model, alone, scheme):
    checkpoint = quantized(model, "bert", **scheme)
    artifact = exports(checkpoint, "auto")
    assert artifact.precision == "packed"
    assert artifact.details["compute_precision"] == "fp32"  # no scale is rounded
    assert artifact.details["parity"]["max_abs_diff"] < 1e-4
    found = packed_weights(artifact)
    assert found.keys() == checkpoint.quantized.keys()
    for name, tensor in checkpoint.quantized.items():
        weight = found[name]
        if isinstance(tensor, CodebookTensor):
            np.testing.assert_array_equal(weight.integers.astype(np.uint8), tensor.indices.numpy())
            np.testing.assert_array_equal(weight.codebook.reshape(tensor.codebook.shape), tensor.codebook.numpy())
        else:
            np.testing.assert_array_equal(weight.integers.astype(np.int8), tensor.integers.numpy())
        if tensor.scale is not None:
            np.testing.assert_array_equal(weight.scale, tensor.scale.numpy())
        zero_point = getattr(tensor, "zero_point", None)
        assert (weight.zero_point is None) == (zero_point is None)
        if zero_point is not None:
            np.testing.assert_array_equal(weight.zero_point.astype(np.int8), zero_point.numpy())
    read = alone(artifact)  # by coremltools, which decompresses them
    for name, tensor in checkpoint.quantized.items():
        torch.testing.assert_close(
            read[f"weight {artifact.details['packed'][name]}"], tensor.dequantize(), atol=0, rtol=1e-6
        )


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_stand_in_the_package_as_their_integers(exports, model, tied):
    source = model("llama", layers=1)
    if not tied:
        source.lm_head.weight = torch.nn.Parameter(source.lm_head.weight.flip(0))
    first = lepton.quantize_model(Checkpoint.of(source), 4, group_size=16)
    checkpoint = lepton.quantize_model(first, 8, targets=["Embedding"], ignore=[] if tied else ["lm_head"])
    artifact = exports(checkpoint, "auto")
    assert artifact.details["parity"]["max_abs_diff"] < 1e-4
    found = packed_weights(artifact)
    assert found.keys() == checkpoint.quantized.keys()
    for name, tensor in checkpoint.quantized.items():
        np.testing.assert_array_equal(found[name].integers.astype(np.int8), tensor.integers.numpy())
        np.testing.assert_array_equal(found[name].scale, tensor.scale.numpy())


def test_bits_are_the_integers_own(exports, model):
    stored = {}
    for bits in (8, 4, 3):
        scheme = {"bit_width": bits, "group_size": 16 if bits < 8 else -1}
        profile = CoreMLBackend.weights(
            exports(quantized(model, "bert", **scheme), compute_precision="fp16", precision="packed")
        )
        stored[bits] = profile.bits
    layers = sum(
        m.weight.numel() for m in model("bert", layers=1).bert.encoder.modules() if isinstance(m, torch.nn.Linear)
    )
    assert stored[4] - stored[3] == pytest.approx(layers, rel=0.15)
    assert stored[8] > stored[4] > stored[3]


@pytest.mark.parametrize("name", ["llama", "vit"])
def test_fp16_scales_stay_and_may_be_negative(exports, model, name):
    checkpoint = halved(quantized(model, name, bit_width=4, group_size=16, symmetric=False))
    artifact = exports(checkpoint, "auto")
    assert artifact.details["compute_precision"] == "fp16"
    for module, weight in packed_weights(artifact).items():
        assert weight.scale.dtype == np.float16
        np.testing.assert_array_equal(weight.scale, checkpoint.quantized[module].scale.numpy())
        assert (weight.scale < 0).any()


def test_without_integers_there_is_nothing_to_pack(exports):
    with pytest.raises(UsageError, match="the checkpoint carries none"):
        exports("bert", "packed")
    assert exports("bert", "auto").precision == "fp16"


def test_tables_of_five_bits_have_no_place(exports, model):
    scheme = {"codebook": "kmeans", "num_bits": 5}
    checkpoint = quantized(model, "bert", scheme=scheme)
    with pytest.raises(UsageError, match=r"bert\.encoder\.layer\.0\.attention\.self\.query.* tables have 2\^n"):
        exports(checkpoint, "packed")
    backend = CoreMLBackend(CoreMLConfig())
    assert backend.keeps_integers()
    assert "2^n" in backend.cannot_hold(CodebookScheme(num_bits=5, codebook="kmeans"))
    assert backend.cannot_hold(Scheme(num_bits=3)) is None
    assert not CoreMLBackend(CoreMLConfig(precision="fp16")).keeps_integers()


def test_zeros_of_a_pruned_model_pass(exports, model):
    source = model("bert")
    weight = source.bert.encoder.layer[0].intermediate.dense.weight
    weight.data[torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < 0.5] = 0
    zeros = int((weight == 0).sum())
    before = CoreMLBackend.weights(exports("bert", "fp16")).zeros
    assert CoreMLBackend.weights(exports(Checkpoint.of(source), "fp16")).zeros == before + zeros
