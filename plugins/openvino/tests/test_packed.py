"""A checkpoint's integers stand in the graph as they are, and it computes what the checkpoint computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from leptonsdk_openvino import OpenVINOBackend, OpenVINOConfig
from leptonsdk_openvino.graph_integers import decode, stored_weights
from leptonsdk_openvino.graph_packed import compressed_weight

import leptonsdk as lepton
from leptonsdk.checkpoint import Checkpoint
from leptonsdk.errors import ExportError, UsageError
from leptonsdk.quantization import CodebookTensor, QuantizedTensor, Scheme, resolve_scheme, round_to_nearest

LAYER = "model.layers.0"
SCHEMES: dict[str, dict[str, Any]] = {
    f"{LAYER}.self_attn.q_proj": {"bit_width": 8},
    f"{LAYER}.self_attn.k_proj": {"bit_width": 4, "group_size": 16},
    f"{LAYER}.self_attn.v_proj": {"bit_width": 4, "group_size": 16, "symmetric": False},
    f"{LAYER}.self_attn.o_proj": {"bit_width": 3, "group_size": 16},
    f"{LAYER}.mlp.gate_proj": {"bit_width": 2, "group_size": 32},
    f"{LAYER}.mlp.up_proj": {"bit_width": 6, "group_size": -1, "symmetric": False},
    "model.embed_tokens": {"bit_width": 4, "group_size": 32, "symmetric": False},  # lm_head's too
}
KINDS = {"i8": 1, "i4": 2, "u4": 2, "u2": 1, "u8": 1, "nf4": 1}


def quantize(model: Any, schemes: dict[str, Any]) -> Checkpoint:
    """A checkpoint whose layers are quantized each in its own way."""
    tensors: dict[str, Any] = {}
    for name, fields in schemes.items():
        weight = model.get_submodule(name).weight
        tensors[name] = round_to_nearest(weight.data, Scheme.resolve(**fields))
    return with_integers(model, tensors)


def with_integers(model: Any, tensors: dict[str, Any]) -> Checkpoint:
    for name, tensor in tensors.items():
        model.get_submodule(name).weight.data.copy_(tensor.dequantize())
    return Checkpoint.of(model).replace(quantized=tensors)


def normal_float(weight: torch.Tensor) -> CodebookTensor:
    from leptonsdk.quantization.codebooks import NF4

    generator = torch.Generator().manual_seed(2)
    return CodebookTensor(
        torch.randint(0, 16, weight.shape, generator=generator, dtype=torch.uint8),
        torch.tensor(NF4)[None],
        torch.rand(weight.shape[0], weight.shape[1] // 64, generator=generator) / 10 + 0.1,
        resolve_scheme("NF4"),  # type: ignore[arg-type]
    )


def negative(weight: torch.Tensor, scheme: Scheme) -> QuantizedTensor:
    """All integers of a scheme's range, and scales of both signs."""
    generator = torch.Generator().manual_seed(1)
    integers = torch.randint(scheme.minimum, scheme.maximum + 1, weight.shape, generator=generator)
    shape = scheme.scale_shape(weight.shape)
    return QuantizedTensor(integers.to(torch.int8), torch.randn(shape, generator=generator) / 20, None, scheme)


@pytest.fixture(scope="module")
def packed(make: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Every scheme in one decoder, and what its source answers."""
    model = make.model("llama")
    checkpoint = quantize(model, SCHEMES)
    down = f"{LAYER}.mlp.down_proj"
    checkpoint = with_integers(model, {**checkpoint.quantized, down: normal_float(model.get_submodule(down).weight)})
    k = f"{LAYER}.self_attn.k_proj"
    scheme = checkpoint.quantized[k].scheme
    checkpoint = with_integers(model, {**checkpoint.quantized, k: negative(model.get_submodule(k).weight, scheme)})
    folder = tmp_path_factory.mktemp("packed")
    backend = OpenVINOBackend(OpenVINOConfig())
    artifact = backend.export(checkpoint, folder, make.context("llama", tmp_path_factory.mktemp("scratch")))
    return checkpoint, artifact


def test_auto_packs_and_computes_what_the_checkpoint_computes(packed, make):
    checkpoint, artifact = packed
    assert artifact.precision == "packed"
    assert artifact.details["parity"]["measure"] == "max_abs_diff"
    assert artifact.details["parity"]["max_abs_diff"] < 1e-4
    assert artifact.details["quantization"]["weights"] == KINDS
    batch = make.batch("llama", 3, 8, seed=7)
    with torch.no_grad():
        expected = checkpoint.model.generate(**batch, max_new_tokens=12, do_sample=False, eos_token_id=None)
    runner = OpenVINOBackend.load(artifact, threads=1)
    assert torch.equal(runner.generate(**batch, max_new_tokens=12), expected)


def test_integers_and_scales_are_the_checkpoints_bit_for_bit(packed):
    checkpoint, artifact = packed
    stored = stored_weights([artifact.folder / artifact.entry])
    assert len(stored) == len(checkpoint.quantized)
    for name, tensor in checkpoint.quantized.items():
        found = stored[f"{name}.weight"]
        wanted = tensor.integers if isinstance(tensor, QuantizedTensor) else tensor.indices
        assert np.array_equal(found.integers, wanted.numpy()), name
        assert found.scale.tobytes() == tensor.scale.float().numpy().tobytes(), name
        zeros = getattr(tensor, "zero_point", None)
        if zeros is not None:
            assert np.array_equal(found.zero_point, zeros.numpy()), name
        elif found.zero_point is not None:
            assert not found.zero_point.any(), name


def test_openvino_alone_says_what_the_checkpoint_says(packed, make):
    checkpoint, artifact = packed
    batch = make.batch("llama", 3, 8, seed=7)
    with torch.no_grad():
        logits = checkpoint.model(**batch).logits
        ids = checkpoint.model.generate(**batch, max_new_tokens=12, do_sample=False, eos_token_id=None)
    found, kept = make.alone(artifact, batch, new_tokens=12), batch["attention_mask"].bool()
    torch.testing.assert_close(found["logits"][kept], logits[kept], atol=1e-4, rtol=1e-4)
    assert torch.equal(found["ids"], ids[:, 8:])


def test_products_read_the_integers_at_run_time(packed):
    compiled = OpenVINOBackend.load(packed[1], threads=1).compiled
    ops = compiled.get_runtime_model().get_ordered_ops()
    kinds = [op.get_rt_info()["layerType"].astype(str) for op in ops]
    products = [op for op, kind in zip(ops, kinds, strict=True) if kind == "FullyConnected"]
    assert len(products) == 8
    for op in products:
        held = op.input_value(1).get_node().get_rt_info()["outputPrecisions"].astype(str)
        assert held.lower() in KINDS, (op.get_friendly_name(), held)


def test_its_weights_are_counted(packed, make):
    profile = OpenVINOBackend.weights(packed[1])
    assert profile.parameters == pytest.approx(make.model("llama").num_parameters(), rel=0.02)
    assert profile.bits_per_weight < 8
    zeros = sum(int((t.dequantize() == 0).sum()) for t in packed[0].quantized.values())
    assert profile.zeros == pytest.approx(zeros, abs=40)  # a norm's or frequencies' are none


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("group", [None, 16])
@pytest.mark.parametrize("symmetric", [True, False])
def test_every_scheme_computes_its_floats_exactly(bits, group, symmetric):
    import openvino as ov

    torch.manual_seed(bits)
    tensor = round_to_nearest(
        torch.randn(6, 48), Scheme.resolve(bit_width=bits, group_size=group or -1, symmetric=symmetric)
    )
    node, kind = compressed_weight(tensor, "w")
    compiled = ov.compile_model(ov.Model([node], [], "w"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    [found] = compiled([]).values()
    torch.testing.assert_close(torch.from_numpy(found), tensor.dequantize(), atol=0, rtol=1e-6)
    assert int(kind[1:]) == (2 if bits == 2 else 4 if bits <= 4 else 8)


def test_odd_numbers_of_integers_are_packed_too():
    tensor = round_to_nearest(torch.randn(3, 5), Scheme.resolve(bit_width=4, group_size=-1))
    node, _ = compressed_weight(tensor, "w")
    constant = node.input_value(0).get_node().input_value(0).get_node()
    assert np.array_equal(decode(constant), tensor.integers.numpy())


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_of_a_compressor_and_the_output_layer_that_shares_them(tied, make, tmp_path):
    model = make.model("llama")
    if not tied:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.flip(0))
    first = lepton.quantize_model(Checkpoint.of(model), 4, group_size=32)
    checkpoint = lepton.quantize_model(first, 8, targets=["Embedding"], ignore=[] if tied else ["lm_head"])
    artifact = export(checkpoint, make, tmp_path)
    assert artifact.details["quantization"]["kept_in_float"] == ([] if tied else ["lm_head"])
    stored = stored_weights([artifact.folder / artifact.entry])
    assert stored.keys() == {f"{name}.weight" for name in checkpoint.quantized}
    for name, tensor in checkpoint.quantized.items():
        assert np.array_equal(stored[f"{name}.weight"].integers, tensor.integers.numpy()), name
        assert stored[f"{name}.weight"].scale.tobytes() == tensor.scale.numpy().tobytes(), name
    batch = make.batch("llama", 2, 6, seed=7)
    with torch.no_grad():
        expected = checkpoint.model(**batch).logits
    mask = batch["attention_mask"].bool()
    found = OpenVINOBackend.load(artifact, threads=1)(**batch).logits
    assert torch.allclose(found[mask], expected[mask], atol=1e-4)


def test_fp32_dequantizes_a_quantized_checkpoint_on_purpose(make):
    checkpoint = quantize(make.model("llama"), SCHEMES)
    assert OpenVINOConfig().resolved_precision(checkpoint) == "packed"
    assert OpenVINOConfig(precision="fp32").resolved_precision(checkpoint) == "fp32"
    assert OpenVINOConfig().resolved_precision(Checkpoint.of(make.model("llama"))) == "fp32"


def test_packed_needs_integers(make, tmp_path):
    with pytest.raises(UsageError, match="carries no integers"):
        export(Checkpoint.of(make.model("bert")), make, tmp_path)


def test_codebooks_of_ones_own_are_refused_before_the_trace_by_name(make, tmp_path):
    model = make.model("llama")
    scheme = resolve_scheme("KMEANS4")
    weight = model.get_submodule(f"{LAYER}.mlp.up_proj").weight
    indices = torch.zeros(weight.shape, dtype=torch.uint8)
    table = torch.arange(16.0).repeat(weight.shape[0], 1)
    tensor = CodebookTensor(indices, table, None, scheme)  # type: ignore[arg-type]
    checkpoint = with_integers(model, {f"{LAYER}.mlp.up_proj": tensor})
    with pytest.raises(UsageError, match=r"mlp\.up_proj") as caught:
        export(checkpoint, make, tmp_path)
    assert "NormalFloat4" in str(caught.value)
    backend = OpenVINOBackend(OpenVINOConfig())
    assert backend.keeps_integers()
    assert "NormalFloat4" in str(backend.cannot_hold(scheme))
    assert backend.cannot_hold(resolve_scheme("NF4")) is None


def test_a_weight_that_changed_since_is_an_error(make, tmp_path, monkeypatch):
    from leptonsdk_openvino import graph_packed

    model = make.model("bert")
    name = "bert.encoder.layer.0.output.dense"
    checkpoint = quantize(model, {name: {"bit_width": 8}})
    model.get_submodule(name).weight.data[0, 0] += 1
    with pytest.raises(ExportError, match="not what its integers") as caught:
        export(checkpoint, make, tmp_path)
    assert name in str(caught.value)
    absent = checkpoint.replace(quantized={"bert.nowhere": checkpoint.quantized[name]})
    with pytest.raises(ExportError, match=r"bert\.nowhere"):
        graph_packed.lower([], absent.quantized)


def export(checkpoint: Checkpoint, make: Any, folder: Path) -> Any:
    (folder / "artifact").mkdir()
    name = "bert" if "bert" in type(checkpoint.model).__name__.lower() else "llama"
    backend = OpenVINOBackend(OpenVINOConfig(precision="packed"))
    return backend.export(checkpoint, folder / "artifact", make.context(name, folder / "scratch"))
