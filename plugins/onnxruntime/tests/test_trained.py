"""int8-static of a trained checkpoint: its integers, its scales of weights and of activations, without calibration."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from leptonsdk_onnxruntime import OnnxRuntimeBackend, OnnxRuntimeConfig
from leptonsdk_onnxruntime.quantize_packed import unpacked
from onnx import numpy_helper

import leptonsdk as lepton
from leptonsdk.checkpoint import Checkpoint
from leptonsdk.errors import ExportError, UsageError

KEPT = {"bert": ("classifier",), "llama": ("lm_head",), "gpt2": ("lm_head",), "t5": ("lm_head",)}
TARGETS = ("Linear", "Conv1D")


def trained(tiny: Any, name: str, **scheme: Any) -> Checkpoint:
    """A checkpoint as training leaves it."""
    model = tiny.build(name, layers=1) if name == "t5" else tiny.models[name]().model
    options = {"bit_width": 8, "targets": TARGETS, "ignore": KEPT[name]} | scheme
    return tiny.with_input_scales(lepton.quantize_model(Checkpoint.of(model), **options), batch(tiny, name, 3))


def batch(tiny: Any, name: str, seed: int) -> Any:
    if name != "t5":
        return tiny.batch(name, 4, 7, seed=seed)
    ids = torch.randint(3, 40, (4, 7), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "decoder_input_ids": ids[:, :5]}


def export(checkpoint: Checkpoint, tiny: Any, name: str, folder: Path, **options: Any) -> Any:
    """Without calibration data."""
    folder.mkdir()
    context = tiny.context(name, folder.with_suffix(".scratch"), data=False)
    return OnnxRuntimeBackend(OnnxRuntimeConfig(**options)).export(checkpoint, folder, context)


def channels(artifact: Any) -> list[tuple[bytes, float]]:
    """Integers and scale of every output channel that the saved graphs multiply as integers."""
    found = []
    for file in (name for name in artifact.files if name.endswith(".onnx")):
        graph = onnx.load(artifact.folder / file).graph
        arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        for node in graph.node:  # transposes of weights, and scales that fp16 can say exactly
            if node.op_type in ("Transpose", "Cast") and node.input[0] in arrays:
                array = arrays[node.input[0]]
                arrays[node.output[0]] = array.T if node.op_type == "Transpose" else array.astype(np.float32)
        for node in graph.node:
            if node.op_type == "MatMulIntegerToFloat":
                weight, scale = arrays[node.input[1]], arrays[node.input[3]]
                assert weight.dtype == np.int8
                found += zip(map(np.ndarray.tobytes, weight.T), map(float, scale), strict=True)
    return found


def assert_same_channels(artifact: Any, checkpoint: Checkpoint) -> None:
    wanted = []
    for name in checkpoint.input_scales:
        tensor = checkpoint.quantized[name]
        scales = tensor.scale.float().expand(len(tensor.integers), 1).flatten().tolist()
        wanted += zip(map(np.ndarray.tobytes, tensor.integers.numpy()), scales, strict=True)
    assert sorted(channels(artifact)) == sorted(wanted)


def assert_computes_what_was_trained(artifact: Any, checkpoint: Checkpoint, tiny: Any, name: str) -> None:
    given = batch(tiny, name, 11)
    with tiny.rounding_inputs(checkpoint) as model:
        wanted = model(**given).logits
    with torch.no_grad():
        floats = checkpoint.model(**given).logits
    found = OnnxRuntimeBackend.load(artifact, threads=1)(**given).logits
    kept = given["attention_mask"].bool() if name in ("llama", "gpt2") else slice(None)
    error, rounding = ((found - wanted)[kept].abs().mean(), (floats - wanted)[kept].abs().mean())
    assert float(error) < 0.2 * float(rounding)


def assert_computes_the_same_alone(artifact: Any, tiny: Any, name: str) -> None:
    given, runner = batch(tiny, name, 11), OnnxRuntimeBackend.load(artifact, threads=1)
    if name == "bert":
        found, wanted = tiny.alone(artifact, given)["logits"], runner(**given).logits
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
        return
    begin = 1 if name == "t5" else given["input_ids"].shape[1]
    given.pop("decoder_input_ids", None)
    wanted = runner.generate(**given, max_new_tokens=8)[:, begin:]
    wanted = wanted.masked_fill(wanted == 1, 0) if name == "t5" else wanted  # its end token
    assert torch.equal(tiny.alone(artifact, given, new_tokens=8)["ids"][:, : wanted.shape[1]], wanted)


@pytest.mark.parametrize("name", KEPT)
def test_integers_and_scales_are_the_checkpoints_bit_for_bit(tmp_path: Path, tiny: Any, name: str) -> None:
    """Of query, key and value too, which are one product in the graph."""
    checkpoint = trained(tiny, name)
    artifact = export(checkpoint, tiny, name, tmp_path / "out", embeddings="float")
    assert artifact.precision == "int8-static"
    assert_same_channels(artifact, checkpoint)
    assert_computes_what_was_trained(artifact, checkpoint, tiny, name)
    assert_computes_the_same_alone(artifact, tiny, name)


@pytest.mark.parametrize(
    "scheme", [{"bit_width": 4, "group_size": -1}, {"bit_width": None, "scheme": {"num_bits": 6, "strategy": "tensor"}}]
)
def test_few_bits_stay_few(tmp_path: Path, tiny: Any, scheme: dict[str, Any]) -> None:
    checkpoint = trained(tiny, "bert", **scheme)
    if scheme["bit_width"]:
        assert any(bool((tensor.scale < 0).any()) for tensor in checkpoint.quantized.values())
    artifact = export(checkpoint, tiny, "bert", tmp_path / "out", embeddings="float", reduce_range=True)
    assert_same_channels(artifact, checkpoint)
    assert_computes_what_was_trained(artifact, checkpoint, tiny, "bert")


def test_scales_that_no_largest_integer_tells_stay(tmp_path: Path, tiny: Any) -> None:
    """As learned ones are: some weights are clipped, or no weight reaches the largest integer."""
    checkpoint = trained(tiny, "bert")
    tensors = {}
    for name, tensor in checkpoint.quantized.items():
        factors = torch.linspace(0.6, 1.7, len(tensor.scale)).unsqueeze(1)
        scale = tensor.scale * factors
        integers = (tensor.dequantize() / scale).round().clamp(-128, 127).to(torch.int8)
        tensors[name] = dataclasses.replace(tensor, integers=integers, scale=scale)
    learned = checkpoint.with_integers(tensors)
    artifact = export(learned, tiny, "bert", tmp_path / "out", embeddings="float")
    assert_same_channels(artifact, learned)
    assert_computes_what_was_trained(artifact, learned, tiny, "bert")


@pytest.mark.parametrize("scheme", [{"group_size": 16}, {"symmetric": False}])
def test_what_the_kernels_cannot_multiply_is_packed_or_refused_by_name(
    tmp_path: Path, tiny: Any, scheme: dict[str, Any]
) -> None:
    checkpoint = trained(tiny, "bert", **scheme)
    artifact = export(checkpoint, tiny, "bert", tmp_path / "auto")
    assert artifact.precision == "packed"
    assert not channels(artifact)
    with pytest.raises(UsageError, match=r"int8 kernels have .*layer\.0\.attention\.self\.query"):
        export(checkpoint, tiny, "bert", tmp_path / "static", precision="int8-static")


def test_eight_bits_are_not_cut_to_seven(tmp_path: Path, tiny: Any) -> None:
    with pytest.raises(UsageError, match=r"7 bits: .*query") as refused:
        export(trained(tiny, "bert"), tiny, "bert", tmp_path / "out", precision="int8-static", reduce_range=True)
    assert "bit_width: 7" in str(refused.value.hint)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_tables_that_carry_integers_keep_them(tmp_path: Path, tiny: Any, name: str) -> None:
    """Llama's output layer multiplies the same copy, with float inputs: no scale was trained for them."""
    table = {"bert": "bert.embeddings.word_embeddings", "llama": "model.embed_tokens"}[name]
    ignore = KEPT[name] if name == "bert" else ()
    small = lepton.quantize_model(tiny.models[name]().model, 4, targets=[table], ignore=ignore, group_size=32)
    checkpoint = lepton.quantize_model(small, 8, ignore=ignore)
    checkpoint = tiny.with_input_scales(checkpoint, batch(tiny, name, 3))
    assert table not in checkpoint.input_scales
    artifact = export(checkpoint, tiny, name, tmp_path / "out", embeddings="float")
    found = unpacked(ir.load(artifact.folder / artifact.entry).graph)
    assert np.array_equal(found[table][0], checkpoint.quantized[table].integers.numpy())
    assert artifact.details["quantization"]["packed"].keys() == {checkpoint.quantized[table].scheme.name}
    assert_same_channels(artifact, checkpoint)
    assert_computes_what_was_trained(artifact, checkpoint, tiny, name)


def test_integers_of_other_weights_are_an_error(tmp_path: Path, tiny: Any) -> None:
    checkpoint = trained(tiny, "bert")
    with torch.no_grad():
        checkpoint.model.bert.encoder.layer[0].output.dense.weight.mul_(2)
    with pytest.raises(ExportError, match="not what its integers stand for"):
        export(checkpoint, tiny, "bert", tmp_path / "out")
