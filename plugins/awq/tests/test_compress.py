"""The compressor on seven architectures: what it scales, that this changes nothing, and what it leaves on disk."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from leptonsdk_awq import AWQ, AWQConfig
from leptonsdk_awq.calibrate_folds import apply_fold, find_folds

from leptonsdk.calibration import calibration_inputs, layers_by_input, watch_inputs
from leptonsdk.checkpoint import load_checkpoint
from leptonsdk.errors import UsageError
from leptonsdk.quantization import RoundToNearest, RoundToNearestConfig, layers_to_quantize, weight_of

# The layers whose input is scaled, by the last part of their names.
SCALED = {
    "llama": "down_proj gate_proj k_proj o_proj q_proj up_proj v_proj",
    "gpt2": "c_attn c_fc",
    "bert": "dense",  # of the attention's output: its norms are read by residuals too
    "distilbert": "out_lin",
    "vit": "fc1 k_proj o_proj q_proj v_proj",
    "whisper": "fc1 k_proj out_proj q_proj v_proj",
    "t5": "k o q v wi wo",  # its ReLU passes a factor on
}
OPTIONS: dict[str, Any] = {"bit_width": 3, "group_size": 16, "grid": 4}


def layers_of(checkpoint: Any, config: AWQConfig) -> dict[str, torch.nn.Module]:
    meant = layers_to_quantize(checkpoint.model, config.resolve(), config.targets, config.ignore)
    return {layer.name: layer.module for layer in meant}


def logits(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(**batch).logits
    return found


@pytest.mark.parametrize("name", sorted(SCALED))
def test_what_can_be_scaled_is_found_and_scaling_it_changes_nothing(make: Any, name: str) -> None:
    source, batch = make.checkpoint(name), make.inputs(name, rows=3)
    before = {key: value.clone() for key, value in source.model.state_dict().items()}
    expected = logits(source.model, batch)
    folds = find_folds(source.model, layers_of(source, AWQConfig(**OPTIONS)), [batch])
    assert all(torch.equal(value, before[key]) for key, value in source.model.state_dict().items())
    scaled = [part for fold in folds for part in fold.consumers]
    assert len(set(scaled)) == len(scaled)
    assert sorted({part.rpartition(".")[2] for part in scaled}) == SCALED[name].split()
    generator = torch.Generator().manual_seed(0)
    for fold in folds:
        drawn = torch.randint(-3, 4, (int(fold.channels.max()) + 1,), generator=generator)
        apply_fold(source.model, fold, torch.exp2(drawn.float())[fold.channels])
    assert not torch.equal(weight_of(source.model.get_submodule(scaled[0])), before[f"{scaled[0]}.weight"])
    torch.testing.assert_close(logits(source.model, batch), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "bits"), [("llama", 3), ("whisper", 4)])
def test_outputs_stay_closer_than_by_round_to_nearest(make: Any, name: str, bits: int, tmp_path: Path) -> None:
    """Of these models: what is sought is each layer's own output, and of a random one at 3 bits errors may add up otherwise."""
    source, context = make.checkpoint(name), make.context(tmp_path, make.inputs(name))
    before = {key: value.clone() for key, value in source.model.state_dict().items()}
    made = AWQ(AWQConfig(**{**OPTIONS, "bit_width": bits})).compress(source, context)
    plain = RoundToNearest(RoundToNearestConfig(bit_width=bits, group_size=16)).compress(source, context)
    assert made.quantized.keys() == plain.quantized.keys()
    batch = make.inputs(name, rows=8, seed=9)
    expected = logits(source.model, batch)
    error, nearest = ((logits(x.model, batch) - expected).square().mean() for x in (made, plain))
    assert error < nearest
    assert all(torch.equal(value, before[key]) for key, value in source.model.state_dict().items())
    for key, tensor in made.quantized.items():
        assert torch.equal(weight_of(made.model.get_submodule(key)), tensor.dequantize())
    assert not any(module._forward_pre_hooks for x in (source, made) for module in x.model.modules())


def test_layers_outputs_are_never_further_off_than_by_round_to_nearest(make: Any, tmp_path: Path) -> None:
    """In the model itself, each with the inputs of the source: a rescaled layer with those that its norm makes now."""
    source, context = make.checkpoint("llama"), make.context(tmp_path, make.inputs("llama"))
    config = AWQConfig(**OPTIONS)
    made = AWQ(config).compress(source, context)
    plain = RoundToNearest(RoundToNearestConfig(bit_width=3, group_size=16)).compress(source, context)
    norms = {
        "q_proj k_proj v_proj": "model.layers.0.input_layernorm",
        "gate_proj up_proj": "model.layers.0.post_attention_layernorm",
    }
    layers = layers_of(source, config)
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
    for batch in calibration_inputs(source.model, context, 4):
        watch_inputs(source.model, layers, batch, lambda name, x: seen[name].append(x))
    scaled = 0
    for ends, norm in norms.items():
        ratio = source.model.get_submodule(norm).weight / made.model.get_submodule(norm).weight
        scaled += int((ratio != 1).sum())
        for name in (name for name in layers if name.endswith(tuple(ends.split()))):
            x, weight = torch.cat(seen[name]), weight_of(layers[name])
            own = weight_of(made.model.get_submodule(name)) / ratio
            if name.endswith(("v_proj", "up_proj")):  # their rows were divided in turn
                own = own * (weight.norm(dim=1) / own.norm(dim=1)).log2().round().exp2().unsqueeze(1)
            error, nearest = (
                ((w - weight) @ x.t()).square().sum() for w in (own, weight_of(plain.model.get_submodule(name)))
            )
            assert error <= nearest * (1 + 1e-4), name
    assert scaled


def test_a_saved_folder_gives_the_same_logits_without_us(make: Any, tmp_path: Path) -> None:
    name = "llama"
    made = AWQ(AWQConfig(**{**OPTIONS, "bit_width": 4})).compress(
        make.checkpoint(name), make.context(tmp_path, make.inputs(name, rows=8))
    )
    made.save(tmp_path / "saved")
    feed = make.inputs(name, rows=2, seed=5)
    torch.save({"feed": feed, "logits": logits(made.model, feed)}, tmp_path / "expected.pt")
    code = f"""
        import sys, torch, transformers
        torch.set_num_threads({torch.get_num_threads()})  # sums come in the same order
        stored = torch.load({str(tmp_path / "expected.pt")!r}, weights_only=True)
        model = transformers.{type(made.model).__name__}.from_pretrained({str(tmp_path / "saved")!r}).eval()
        with torch.no_grad():
            logits = model(**stored["feed"]).logits
        assert "leptonsdk" not in sys.modules
        assert torch.equal(logits, stored["logits"]), (logits - stored["logits"]).abs().max()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    again = load_checkpoint(tmp_path / "saved", task=made.task)
    assert all(torch.equal(again.quantized[key].integers, made.quantized[key].integers) for key in made.quantized)


def test_what_is_ignored_keeps_its_weights(make: Any, tmp_path: Path) -> None:
    source, context = make.checkpoint("llama"), make.context(tmp_path, make.inputs("llama", rows=8))
    config = AWQConfig(**OPTIONS, targets=("Linear",), ignore=("lm_head", "k_proj", "up_proj"))
    made = AWQ(config).compress(source, context)
    kept = ["self_attn.k_proj", "mlp.up_proj"]
    assert sorted(name.rpartition(".")[2] for name in made.quantized) == [
        "down_proj",
        "gate_proj",
        "o_proj",
        "q_proj",
        "v_proj",
    ]
    before, after = source.model.model.layers[0], made.model.model.layers[0]
    for name in (*kept, "input_layernorm", "post_attention_layernorm"):  # scaling those would scale the ignored
        assert torch.equal(before.get_submodule(name).weight, after.get_submodule(name).weight), name
    first = AWQ(AWQConfig(**OPTIONS, targets=("q_proj",))).compress(source, context)
    both = AWQ(AWQConfig(**{**OPTIONS, "bit_width": 4})).compress(first, context)
    (name,) = first.quantized
    assert torch.equal(both.quantized[name].integers, first.quantized[name].integers)
    assert both.quantized[name].scheme.num_bits == 3


def test_the_same_input_gives_the_same_bits_whatever_the_memory(make: Any, tmp_path: Path) -> None:
    batch = make.inputs("vit")
    source, again = make.checkpoint("vit"), make.checkpoint("vit")
    first = AWQ(AWQConfig(**OPTIONS)).compress(source, make.context(tmp_path, batch))
    torch.manual_seed(123)
    state = torch.get_rng_state()
    tight = AWQConfig(**OPTIONS, memory=1e-9)
    second = AWQ(tight).compress(again, make.context(tmp_path, batch))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, second.model.state_dict()[key]) for key, value in first.model.state_dict().items())


def test_zeros_stay_zero(make: Any, tmp_path: Path) -> None:
    source = make.checkpoint("llama")
    masks = {}
    with torch.no_grad():
        for name, module in layers_of(source, AWQConfig(**OPTIONS)).items():
            masks[name] = torch.rand(module.weight.shape, generator=torch.Generator().manual_seed(0)) < 0.5
            module.weight.masked_fill_(masks[name], 0)
    for symmetric in (True, False):
        made = AWQ(AWQConfig(**OPTIONS, symmetric=symmetric)).compress(
            source, make.context(tmp_path, make.inputs("llama", rows=8))
        )
        assert all(bool((made.model.get_submodule(name).weight[mask] == 0).all()) for name, mask in masks.items())


def test_half_precision_stays_half_precision_and_exact(make: Any, tmp_path: Path) -> None:
    source = make.checkpoint("llama")
    source.model.to(torch.bfloat16)
    batch = make.inputs("llama", rows=4)
    expected = logits(source.model, batch)
    folds = find_folds(source.model, layers_of(source, AWQConfig(**OPTIONS)), [batch])
    assert len(folds) == 4
    for fold in folds:
        apply_fold(source.model, fold, fold.channels.remainder(3).float().exp2())
    assert torch.equal(logits(source.model, batch), expected)
    made = AWQ(AWQConfig(**OPTIONS)).compress(source, make.context(tmp_path, batch))
    assert {tensor.scale.dtype for tensor in made.quantized.values()} == {torch.bfloat16}


def test_layers_with_one_input_share_a_scale(make: Any) -> None:
    source, batch = make.checkpoint("llama"), make.inputs("llama", rows=2)
    layers = layers_of(source, AWQConfig(**OPTIONS))
    together = {frozenset(names) for names in layers_by_input(source.model, layers, batch)}
    assert {frozenset(fold.consumers) for fold in find_folds(source.model, layers, [batch])} == together


def test_what_cannot_be_done_is_said_first(make: Any, tmp_path: Path) -> None:
    source, batch = make.checkpoint("llama"), make.inputs("llama")
    with pytest.raises(UsageError, match="calibration data is needed"):
        AWQ(AWQConfig(**OPTIONS)).compress(source, make.context(tmp_path, None))
    with pytest.raises(UsageError, match="calibration data is empty"):
        AWQ(AWQConfig(**OPTIONS)).compress(source, make.context(tmp_path, {k: v[:0] for k, v in batch.items()}))
    with pytest.raises(UsageError, match="group_size 24 does not divide"):
        AWQ(AWQConfig(bit_width=4, group_size=24)).compress(source, make.context(tmp_path, batch))


def test_importing_the_plugin_loads_nothing_heavy() -> None:
    code = "import sys, leptonsdk_awq; print({'torch', 'numpy', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
