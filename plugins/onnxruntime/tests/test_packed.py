"""A checkpoint's integers stand in the graph as they are, and it computes what the checkpoint computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from leptonsdk_onnxruntime import OnnxRuntimeBackend, OnnxRuntimeConfig
from leptonsdk_onnxruntime.quantize_packed import unpacked

import leptonsdk as lepton
from leptonsdk.checkpoint import Checkpoint
from leptonsdk.errors import UsageError
from leptonsdk.quantization import QuantizedTensor

SCHEMES: dict[str, dict[str, Any]] = {
    "8 by channel": {"bit_width": 8},
    "8 in groups": {"bit_width": 8, "group_size": 32, "symmetric": False},
    "4 in groups": {"bit_width": 4, "group_size": 32},
    "4 in groups, asymmetric": {"bit_width": 4, "group_size": 16, "symmetric": False},
    "4 by channel": {"bit_width": 4, "group_size": -1},
    "3 in groups": {"bit_width": 3, "group_size": 64},
    "2 by tensor": {"scheme": {"num_bits": 2, "strategy": "tensor"}},
}


def export(checkpoint: Any, tiny: Any, name: str, folder: Path, **options: Any) -> Any:
    folder.mkdir()
    backend = OnnxRuntimeBackend(OnnxRuntimeConfig(**options))
    return backend.export(checkpoint, folder, tiny.context(name, folder.with_suffix(".scratch")))


def integers_of(artifact: Any) -> Any:
    return unpacked(ir.load(artifact.folder / artifact.entry).graph)


def assert_same_integers(artifact: Any, quantized: Any) -> None:
    found = integers_of(artifact)
    assert found.keys() == quantized.keys()
    for name, tensor in quantized.items():
        integers, scale, zeros = found[name]
        assert np.array_equal(integers, tensor.integers.numpy()), name
        pairs = [(scale, tensor.scale.float())]
        if tensor.zero_point is not None:
            pairs.append((zeros, tensor.zero_point))
        for ours, wanted in pairs:  # what belongs to a channel stands there for each of its blocks
            spread = np.broadcast_to(wanted.numpy(), (len(integers), wanted.shape[1]))
            assert np.array_equal(ours, np.repeat(spread, ours.shape[1] // spread.shape[1], axis=1)), name


@pytest.mark.parametrize("scheme", SCHEMES)
def test_integers_and_scales_are_the_checkpoints(tmp_path: Path, tiny: Any, scheme: str) -> None:
    small = lepton.quantize_model(Checkpoint.of(tiny.models["bert"]().model), **SCHEMES[scheme])
    artifact = export(small, tiny, "bert", tmp_path / "out")
    assert artifact.precision == "packed"
    few = all(tensor.scheme.num_bits <= 4 for tensor in small.quantized.values())
    assert artifact.entry == ("onnx/model_q4.onnx" if few else "onnx/model_quantized.onnx")
    assert_same_integers(artifact, small.quantized)
    batch = tiny.batch("bert", 3, 7, seed=4)
    with torch.no_grad():
        expected = small.model(**batch).logits
    found = OnnxRuntimeBackend.load(artifact, threads=1)(**batch).logits
    assert torch.allclose(found, expected, atol=2e-5)
    assert torch.allclose(tiny.alone(artifact, batch)["logits"], expected, atol=2e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_decoder_says_what_the_checkpoint_says(tmp_path: Path, tiny: Any, name: str) -> None:
    small = lepton.quantize_model(
        Checkpoint.of(tiny.models[name]().model), 4, group_size=32, targets=["Linear", "Conv1D"]
    )
    artifact = export(small, tiny, name, tmp_path / "out")
    assert_same_integers(artifact, small.quantized)
    batch = tiny.batch(name, 3, 8, seed=5)
    with torch.no_grad():
        expected = small.model.generate(**batch, do_sample=False, max_new_tokens=16, eos_token_id=None)
    assert torch.equal(OnnxRuntimeBackend.load(artifact, threads=1).generate(**batch, max_new_tokens=16), expected)
    assert torch.equal(tiny.alone(artifact, batch, new_tokens=16)["ids"], expected[:, 8:])


def test_negative_scales_keep_their_sign(tmp_path: Path, tiny: Any) -> None:
    checkpoint = Checkpoint.of(tiny.models["bert"]().model)
    small = lepton.quantize_model(checkpoint, 4, group_size=32)
    name, tensor = next(iter(small.quantized.items()))
    turned = QuantizedTensor((-tensor.integers).clamp(max=7), -tensor.scale, None, tensor.scheme)
    small.model.get_submodule(name).weight.data = turned.dequantize(torch.float32)
    small = small.replace(quantized={**small.quantized, name: turned})
    assert_same_integers(export(small, tiny, "bert", tmp_path / "out"), small.quantized)


@pytest.mark.parametrize(
    "table, tied",
    [
        ({"bit_width": 8}, True),
        ({"bit_width": 4, "group_size": 32, "symmetric": False}, True),
        ({"bit_width": 4, "group_size": 32}, False),
    ],
)
def test_embeddings_are_looked_up_in_the_checkpoints_integers(
    tmp_path: Path, tiny: Any, table: dict[str, Any], tied: bool
) -> None:
    """And an output layer that shares them multiplies the same copy in the file."""
    model = tiny.models["llama"]().model
    if not tied:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.flip(0))
    first = lepton.quantize_model(model, 4, group_size=32)
    small = lepton.quantize_model(first, targets=["Embedding"], ignore=[] if tied else ["lm_head"], **table)
    artifact = export(small, tiny, "llama", tmp_path / "out")
    assert_same_integers(artifact, small.quantized)
    assert artifact.details["quantization"]["kept_in_float"] == ([] if tied else ["lm_head"])
    batch = tiny.batch("llama", 2, 6, seed=3)
    with torch.no_grad():
        expected = small.model(**batch).logits
    mask = batch["attention_mask"].bool()
    found_logits = OnnxRuntimeBackend.load(artifact, threads=1)(**batch).logits
    assert torch.allclose(found_logits[mask], expected[mask], atol=2e-4)


def test_all_tables_of_an_encoder_are_packed(tmp_path: Path, tiny: Any) -> None:
    small = lepton.quantize_model(tiny.models["bert"]().model, 8, targets=["Embedding"])
    assert len(small.quantized) == 3
    assert_same_integers(export(small, tiny, "bert", tmp_path / "out"), small.quantized)


def test_rounded_activations_are_near(tmp_path: Path, tiny: Any) -> None:
    small = lepton.quantize_model(Checkpoint.of(tiny.models["bert"]().model), 4, group_size=32)
    artifact = export(small, tiny, "bert", tmp_path / "out", packed_activations="int8")
    assert 1e-5 < artifact.details["parity"]["relative_rms"] < 0.05
    assert artifact.details["quantization"]["weights"] == {"W4A16 group 32": len(small.quantized)}


def test_floats_where_they_are_asked_for(tmp_path: Path, tiny: Any) -> None:
    small = lepton.quantize_model(Checkpoint.of(tiny.models["bert"]().model), 8)
    artifact = export(small, tiny, "bert", tmp_path / "out", precision="fp32")
    assert not integers_of(artifact)
    assert artifact.precision == "fp32"


def test_what_cannot_be_held_is_said_before_work(tmp_path: Path, tiny: Any) -> None:
    checkpoint = Checkpoint.of(tiny.models["bert"]().model)
    with pytest.raises(UsageError, match="carries no integers"):
        export(checkpoint, tiny, "bert", tmp_path / "a", precision="packed")
    books = lepton.quantize_model(checkpoint, scheme="NF4")
    with pytest.raises(UsageError, match="codebooks.*query"):
        export(books, tiny, "bert", tmp_path / "b")


def test_the_weights_are_counted_and_small(tmp_path: Path, tiny: Any) -> None:
    checkpoint = Checkpoint.of(tiny.models["bert"]().model)
    whole = export(checkpoint, tiny, "bert", tmp_path / "a")
    small = lepton.quantize_model(checkpoint, 4, group_size=32)
    packed = export(small, tiny, "bert", tmp_path / "b")
    before, after = OnnxRuntimeBackend.weights(whole), OnnxRuntimeBackend.weights(packed)
    assert before is not None
    assert after is not None
    assert after.parameters == before.parameters
    saved = sum(tensor.integers.numel() * (32 - 4 - 32 / 32) for tensor in small.quantized.values())
    assert before.bits - after.bits == saved
