"""int8 by a checkpoint's own scales of activations: the integers of its training, multiplied as integers, without calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from leptonsdk_openvino import OpenVINOBackend, OpenVINOConfig
from leptonsdk_openvino.graph_integers import stored_ranges, stored_weights

import leptonsdk as lepton
from leptonsdk.checkpoint import Checkpoint
from leptonsdk.errors import UsageError

KEPT = {"bert": ("classifier",), "llama": ("lm_head",)}


def with_input_scales(make: Any, name: str, *, targets: Any = ("Linear",), **scheme: Any) -> Checkpoint:
    """A checkpoint as training leaves it: integers by channel, and the range of what each layer reads."""
    options = {"targets": targets, "ignore": KEPT[name], **({"bit_width": 8} | scheme)}
    checkpoint = lepton.quantize_model(Checkpoint.of(make.model(name)), **options)
    return make.with_input_scales(checkpoint, make.batch(name, 8, 8, seed=3))


def export(checkpoint: Checkpoint, make: Any, name: str, folder: Path, **options: Any) -> Any:
    """Without calibration data."""
    (folder / "artifact").mkdir()
    context = make.context(name, folder / "scratch", data=False)
    return OpenVINOBackend(OpenVINOConfig(**options)).export(checkpoint, folder / "artifact", context)


def products(artifact: Any) -> dict[str, str]:
    """What multiplies in each product at run time, by the kernel's own word for it."""
    ops = OpenVINOBackend.load(artifact, threads=1).compiled.get_runtime_model().get_ordered_ops()
    infos = [(op.get_friendly_name(), op.get_rt_info()) for op in ops]
    kinds = {n: i["primitiveType"].astype(str) for n, i in infos if i["layerType"].astype(str) == "FullyConnected"}
    return {name: kind.rpartition("_")[2].lower() for name, kind in kinds.items()}


@pytest.fixture(scope="module", params=["bert", "llama"])
def trained(request: Any, make: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    name = request.param
    checkpoint = with_input_scales(make, name)
    return name, checkpoint, export(checkpoint, make, name, tmp_path_factory.mktemp("trained"), ignore=("*embeddings",))


def test_auto_takes_the_scales_in_place_of_data(trained):
    name, _, artifact = trained
    assert artifact.precision == "int8"
    report = artifact.details["quantization"]
    assert report["method"] == "trained"
    assert set(KEPT[name]) <= set(report["kept_in_float"])


def test_integers_scales_and_ranges_are_the_checkpoints_bit_for_bit(trained):
    _, checkpoint, artifact = trained
    path = artifact.folder / artifact.entry
    weights, ranges = stored_weights([path]), stored_ranges([path])
    assert ranges.keys() == checkpoint.input_scales.keys()
    for name, tensor in checkpoint.quantized.items():
        found = weights[f"{name}.weight"]
        assert found.kind == "i8"
        assert found.zero_point is None
        assert np.array_equal(found.integers, tensor.integers.numpy()), name
        assert found.scale.tobytes() == tensor.scale.numpy().tobytes(), name
        assert ranges[name] == tuple(map(np.float32, tensor.input_scale.range)), name


def test_trained_layers_multiply_integers_and_others_floats(trained):
    name, checkpoint, artifact = trained
    kinds = list(products(artifact).values())
    assert kinds.count("i8") == len(checkpoint.quantized)
    assert len(kinds) - kinds.count("i8") == len(KEPT[name])


def test_it_computes_what_the_fake_quantized_model_computes(trained, make):
    name, checkpoint, artifact = trained
    batch = make.batch(name, 4, 7, seed=11)
    with make.rounding_inputs(checkpoint) as model:
        wanted = model(**batch).logits
    with torch.no_grad():
        floats = checkpoint.model(**batch).logits
    found = OpenVINOBackend.load(artifact, threads=1)(**batch).logits
    alone = make.alone(artifact, batch, **({"new_tokens": 1} if name == "llama" else {}))["logits"]
    torch.testing.assert_close(alone, found, atol=1e-5, rtol=1e-5)
    kept = batch["attention_mask"].bool() if name == "llama" else slice(None)
    error, rounding = ((found - wanted)[kept].abs().mean(), (floats - wanted)[kept].abs().mean())
    assert float(error) < 0.2 * float(rounding)


def test_tables_are_rounded_by_rows_unless_they_carry_integers_or_a_product_shares_them(trained, make, tmp_path):
    name, _, artifact = trained
    assert artifact.details["quantization"]["embeddings_rounded"] == 0  # llama's: its output layer, in float, shares it
    if name == "llama":
        return
    checkpoint = with_input_scales(make, name, targets=("Linear", "word_embeddings"))
    again = export(checkpoint, make, name, tmp_path)
    assert again.details["quantization"]["embeddings_rounded"] == 1  # of positions; segments are two
    table = "bert.embeddings.word_embeddings"
    stored = stored_weights([again.folder / again.entry])
    assert np.array_equal(stored[f"{table}.weight"].integers, checkpoint.quantized[table].integers.numpy())


def test_few_bits_are_multiplied_as_integers_too(make, tmp_path):
    checkpoint = with_input_scales(make, "bert", bit_width=4, group_size=-1)
    assert any(bool((tensor.scale < 0).any()) for tensor in checkpoint.quantized.values())
    artifact = export(checkpoint, make, "bert", tmp_path)
    assert list(products(artifact).values()).count("i8") == len(checkpoint.quantized)
    batch = make.batch("bert", 4, 7, seed=11)
    with make.rounding_inputs(checkpoint) as model:
        wanted = model(**batch).logits
    found = OpenVINOBackend.load(artifact, threads=1)(**batch).logits
    assert torch.allclose(found, wanted, atol=0.02 * float(wanted.abs().max()))


@pytest.mark.parametrize("scheme", [{"group_size": 16}, {"symmetric": False}])
def test_what_the_kernels_cannot_multiply_is_packed_or_refused_by_name(scheme, make, tmp_path):
    checkpoint = with_input_scales(make, "bert", **scheme)
    assert OpenVINOConfig().resolved_precision(checkpoint) == "packed"
    with pytest.raises(UsageError, match=r"int8 kernels have .*layer\.0\.attention\.self\.query"):
        export(checkpoint, make, "bert", tmp_path, precision="int8")


def test_without_scales_data_is_asked_for(make, tmp_path):
    weights_only = lepton.quantize_model(Checkpoint.of(make.model("bert")), 8)
    with pytest.raises(UsageError, match="calibration data is needed"):
        export(weights_only, make, "bert", tmp_path, precision="int8")
