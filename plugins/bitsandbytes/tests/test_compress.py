"""What the compressor gives back, and that it is saved as it was quantized whatever ran in between."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import transformers
from leptonsdk_bitsandbytes import quantize_check
from leptonsdk_bitsandbytes.quantize_layers import quantized_layers
from safetensors.torch import load_file, save_file

import leptonsdk as lepton
from leptonsdk.errors import CheckpointError, UsageError
from leptonsdk.evaluation.weights import profile_safetensors
from leptonsdk.structure import find_units, remove_neurons

ALL = ["llama", "gpt2", "bert", "vit", "t5", "whisper"]
FOUR_BITS = [{"quant_type": kind, "double_quantization": double} for kind in ("nf4", "fp4") for double in (True, False)]
EVERY = [*FOUR_BITS, {"quant_type": "int8"}]


@pytest.mark.parametrize("quant_type", ["nf4", "int8"])
@pytest.mark.parametrize("name", ALL)
def test_models_of_every_kind_run_close_to_their_source_and_reload_exactly(tiny, tmp_path, name, quant_type):
    source = tiny.checkpoint(name)
    smaller = tiny.compress(source, quant_type=quant_type)
    assert quantized_layers(smaller.model)
    found, expected = tiny.logits(smaller.model, name), tiny.logits(source.model, name)
    assert (found - expected).norm() < (0.1 if quant_type == "int8" else 0.7) * expected.norm()
    smaller.save(tmp_path / "saved")
    again = lepton.load_model(tmp_path / "saved", task=source.task)
    assert torch.equal(tiny.logits(again.model, name), found)
    assert quantized_layers(again.model) == quantized_layers(smaller.model)


def test_a_model_with_neurons_removed_reloads_and_becomes_floats_again(tiny, inputs, tmp_path):
    source = tiny.checkpoint("bert")
    _, ffns = find_units(source.model, inputs("bert"))
    remove_neurons(source.model, ffns[0], range(64))  # only in the first layer, which no config can say
    smaller = tiny.compress(source, quant_type="nf4")
    expected = tiny.logits(smaller.model, "bert")
    smaller.save(tmp_path / "saved")
    again = lepton.load_model(tmp_path / "saved", task=source.task)
    assert type(again.model) is type(source.model)
    assert torch.equal(tiny.logits(again.model, "bert"), expected)
    floats = again.dequantized().model
    assert floats.get_submodule(ffns[0].down).weight.shape == (64, 64)
    assert type(floats) is type(source.model)


def test_the_given_checkpoint_stays_as_it_was(tiny, tmp_path):
    source = tiny.checkpoint("llama")
    before = {name: tensor.clone() for name, tensor in source.model.state_dict().items()}
    config = source.model.config.to_dict()
    smaller = tiny.compress(source)
    assert smaller.model is not source.model
    assert all(torch.equal(before[name], tensor) for name, tensor in source.model.state_dict().items())
    assert source.model.config.to_dict() == config
    assert not smaller.model.training
    assert not list((tmp_path / "scratch").iterdir()), "the scratch folder is left empty"


def test_saved_after_forwards_it_loads_in_plain_transformers_as_it_ran(tiny, inputs, tmp_path):
    expected = {}
    for number, config in enumerate(EVERY):
        smaller = tiny.compress("llama", **config)
        smaller.save(tmp_path / f"before{number}")
        expected[str(number)] = tiny.logits(smaller.model, "llama")
        smaller.save(tmp_path / str(number))
        assert torch.equal(tiny.logits(smaller.model, "llama"), expected[str(number)]), "a save changes nothing"
        before, after = (load_file(tmp_path / f"{name}{number}/model.safetensors") for name in ("before", ""))
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
    save_file({**inputs("llama"), **expected}, tmp_path / "case.safetensors")
    script = """
        import sys, torch
        from safetensors.torch import load_file
        from transformers import AutoModelForCausalLM
        torch.set_num_threads(1)
        case = load_file(sys.argv[1] + "/case.safetensors")
        tokens = case.pop("input_ids")
        for name, expected in case.items():
            model = AutoModelForCausalLM.from_pretrained(f"{sys.argv[1]}/{name}")
            with torch.no_grad():
                assert torch.equal(model(tokens).logits, expected), name
        assert not any(name.startswith("leptonsdk") for name in sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script), tmp_path], check=True)


def test_a_loaded_checkpoint_saves_what_it_was_loaded_from(tiny, tmp_path):
    tiny.compress("vit", double_quantization=False).save(tmp_path / "first")
    loaded = lepton.load_model(tmp_path / "first")
    tiny.logits(loaded.model, "vit")
    loaded.save(tmp_path / "second")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_model_that_has_run_is_no_checkpoint(tiny, tmp_path):
    tiny.compress("llama").save(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    tiny.logits(model, "llama")
    weight = model.model.layers[0].mlp.up_proj.weight
    if not hasattr(weight.quant_state, "packing_format_for_cpu"):
        pytest.skip("this CPU has no AVX512-BF16, and bitsandbytes leaves the weights alone")
    with pytest.raises(CheckpointError, match="has run on the CPU"):
        lepton.api.as_checkpoint(model, "text-generation")


def test_a_save_that_loses_something_is_found(tiny):
    model = tiny.compress("llama").model
    other = tiny.compress("llama", quant_type="fp4").model
    with pytest.raises(CheckpointError, match="tensors changed while they were saved"):
        quantize_check.check_state(model, other)
    with pytest.raises(CheckpointError, match="outputs differ"):
        quantize_check.check_outputs(model, other, lepton.hooks.StepContext(seed=0, folder=Path()))


@pytest.mark.parametrize(("name", "dtype"), [("llama", torch.float16), ("bert", torch.bfloat16)])
def test_floats_go_back_to_half_precision_and_scales_do_not(tiny, tmp_path, name, dtype):
    tiny.checkpoint(name).save(tmp_path / "half", dtype=dtype)
    source = lepton.load_model(tmp_path / "half")
    smaller = tiny.compress(source, double_quantization=False)
    expected = tiny.logits(smaller.model, name)
    smaller.save(tmp_path / "saved")
    state = load_file(tmp_path / "saved/model.safetensors")
    scales = {key for key in state if key.endswith((".absmax", ".quant_map"))}
    assert {state[key].dtype for key in scales} == {torch.float32}
    assert {tensor.dtype for key, tensor in state.items() if key not in scales} == {torch.uint8, dtype}
    assert json.loads((tmp_path / "saved/config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    again = lepton.load_model(tmp_path / "saved")
    assert {p.dtype for p in again.model.parameters()} == {torch.uint8, torch.float32}
    assert torch.equal(tiny.logits(again.model, name), expected)


@pytest.mark.parametrize(
    ("config", "bits"), [({}, 4), ({"double_quantization": False}, 4), ({"quant_type": "int8"}, 8)]
)
def test_packed_weights_are_counted_as_weights(tiny, tmp_path, config, bits):
    source = tiny.checkpoint("llama")
    tiny.compress(source, **config).save(tmp_path)
    profile = profile_safetensors(tmp_path)
    parameters = dict(source.model.named_parameters())
    assert profile.parameters == sum(p.numel() for p in parameters.values())
    packed = sum(p.numel() for name, p in parameters.items() if "_proj" in name)
    state = load_file(tmp_path / "model.safetensors")
    assert profile.bits == 8 * sum(t.numel() * t.element_size() for t in state.values())
    assert profile.bits > bits * packed + 32 * (profile.parameters - packed), "scales count"


def test_compute_dtype_is_written(tiny, tmp_path):
    smaller = tiny.compress("bert", compute_dtype="bfloat16")
    tiny.logits(smaller.model, "bert")  # casts the biases in memory
    smaller.save(tmp_path)
    section = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert section["bnb_4bit_compute_dtype"] == "bfloat16"
    assert load_file(tmp_path / "model.safetensors")["bert.encoder.layer.0.output.dense.bias"].dtype == torch.float32


def test_what_is_quantized_stays_as_it_is(tiny):
    smaller = tiny.compress("llama")
    for again in (lambda: tiny.compress(smaller), lambda: lepton.quantize_model(smaller, 8)):
        with pytest.raises(UsageError, match="quantized already, by bitsandbytes"):
            again()
    with pytest.raises(UsageError, match="quantized already"):
        tiny.compress(lepton.quantize_model(tiny.checkpoint("llama"), 8))


@pytest.mark.parametrize("steps", [["rtn", "bitsandbytes"], ["bitsandbytes", "rtn"], ["bitsandbytes", "bitsandbytes"]])
def test_a_plan_says_so_before_anything_is_loaded(tiny, tmp_path, steps):
    tiny.checkpoint("bert").save(tmp_path)
    options = {"rtn": {"scheme": "W8A16"}, "bitsandbytes": {}}
    recipe = {
        "version": 1,
        "model": {"id": str(tmp_path), "task": "text-classification"},
        "data": {"eval": {"path": "python-docstrings"}},
        "steps": [{name: options[name]} for name in steps],
    }
    with pytest.raises(lepton.RecipeError, match=f"it may not follow '{steps[0]}'"):
        lepton.plan(recipe)


@pytest.mark.parametrize("config", EVERY, ids=str)
def test_an_export_sees_the_floats_that_it_stands_for(tiny, config):
    smaller = tiny.compress("gpt2", **config)
    expected = tiny.logits(smaller.model, "gpt2")  # repacked by now
    floats = smaller.dequantized()
    assert floats.dequantized() is floats
    assert not quantized_layers(floats.model)
    assert getattr(floats.model.config, "quantization_config", None) is None
    found = tiny.logits(floats.model, "gpt2")
    assert (found - expected).norm() < 0.02 * expected.norm(), "bfloat16 or int8 products against float32"
    assert torch.equal(tiny.logits(smaller.model, "gpt2"), expected)


def test_loading_without_bitsandbytes_says_what_to_install(tiny, tmp_path, monkeypatch):
    tiny.compress("llama").save(tmp_path)
    monkeypatch.setattr("transformers.quantizers.quantizer_bnb_4bit.is_bitsandbytes_available", lambda: False)
    with pytest.raises(CheckpointError, match="pip install leptonsdk-bitsandbytes"):
        lepton.load_model(tmp_path)
