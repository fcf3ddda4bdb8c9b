"""Folders in pack-quantized format: they reload without leptonsdk to the very same logits, and give their integers back."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.compressors.base import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
from safetensors.torch import load_file, save_file
from torch import Tensor

from leptonsdk.errors import CheckpointError
from leptonsdk.quantization import (
    QuantizedTensor,
    Scheme,
    integers_by_module,
    is_compressed,
    layers_to_quantize,
    load_compressed,
    round_to_nearest,
    save_compressed,
)
from leptonsdk.quantization.layers import linear_layers

IDS = torch.tensor([[5, 9, 2, 40, 7, 3], [8, 1, 77, 4, 6, 2]])
PIXELS = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)

RELOAD = """
import json, sys
sys.modules["leptonsdk"] = None  # importing it fails
import torch, transformers
torch.set_num_threads(1)
from safetensors.torch import load_file
transformers.utils.logging.disable_progress_bar()
results = {}
for name, (folder, auto, dtype, generate) in json.load(open(sys.argv[1])).items():
    options = {"dtype": getattr(torch, dtype)} if dtype else {}
    model, report = getattr(transformers, auto).from_pretrained(folder, output_loading_info=True, **options)
    model.eval()
    tensors = load_file(folder + "/expected.safetensors")
    expected, tokens = tensors.pop("expected"), tensors.pop("tokens", None)
    tensors = {k: v.to(model.dtype) if v.is_floating_point() else v for k, v in tensors.items()}
    with torch.no_grad():
        # Encoders run first and alone here, which must not come too early for the weights.
        same = torch.equal(model.generate(**{k: v for k, v in tensors.items() if not k.startswith("decoder")},
                                          max_new_tokens=4, do_sample=False), tokens) if generate else True
        logits = model(**tensors).logits
    results[name] = {"difference": (logits - expected).abs().max().item(), "dtype": str(logits.dtype), "tokens": same,
                     "problems": [k for k, v in report.items() if v], "finite": bool(logits.isfinite().all()),
                     "tied": model.get_output_embeddings() is not None
                             and model.get_output_embeddings().weight is model.get_input_embeddings().weight}
json.dump(results, open(sys.argv[2], "w"))
"""


def llama() -> transformers.PreTrainedModel:
    config = transformers.LlamaConfig(
        vocab_size=97,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    return transformers.LlamaForCausalLM(config)


def bert() -> transformers.PreTrainedModel:
    sizes = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4}
    return transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=97, num_labels=3, **sizes))


def vit() -> transformers.PreTrainedModel:
    sizes = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4}
    return transformers.ViTForImageClassification(transformers.ViTConfig(image_size=32, patch_size=8, **sizes))


def t5() -> transformers.PreTrainedModel:
    config = transformers.T5Config(
        vocab_size=97, d_model=64, d_kv=16, d_ff=96, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config)


def whisper() -> transformers.PreTrainedModel:
    config = transformers.WhisperConfig(
        vocab_size=97,
        num_mel_bins=8,
        d_model=48,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=80,
        decoder_ffn_dim=80,
        max_source_positions=16,
        max_target_positions=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    return transformers.WhisperForConditionalGeneration(config)


INPUTS: dict[Callable[[], Any], dict[str, Tensor]] = {
    llama: {"input_ids": IDS},
    bert: {"input_ids": IDS},
    vit: {"pixel_values": PIXELS},
    t5: {"input_ids": IDS, "decoder_input_ids": IDS},
    whisper: {"input_features": PIXELS[:, 0, :8].reshape(2, 8, 32), "decoder_input_ids": IDS},
}
CAUSAL, CLASSIFIER, SEQ2SEQ = "AutoModelForCausalLM", "AutoModelForSequenceClassification", "AutoModelForSeq2SeqLM"
SPEECH, IMAGE = "AutoModelForSpeechSeq2Seq", "AutoModelForImageClassification"


class Case(NamedTuple):
    build: Callable[[], Any]
    auto: str
    schemes: dict[str, Scheme]  # by target pattern, the first that means a layer wins
    save_dtype: torch.dtype | None = None
    load_dtype: torch.dtype | None = None
    generate: bool = False


def every(bits: int, symmetric: bool = True, group: int | None = None) -> dict[str, Scheme]:
    strategy = "channel" if group is None else "group"
    return {"Linear": Scheme(num_bits=bits, symmetric=symmetric, strategy=strategy, group_size=group)}


MIXED = {"down_proj": Scheme(num_bits=8), **every(4, group=32)}
HALF, BRAIN, FULL = torch.float16, torch.bfloat16, torch.float32
CASES = {
    "llama-w8": Case(llama, CAUSAL, every(8), generate=True),
    "llama-w4-group": Case(llama, CAUSAL, every(4, group=32), generate=True),
    "llama-w4-group-asym": Case(llama, CAUSAL, every(4, False, 32)),
    "llama-w8-asym": Case(llama, CAUSAL, every(8, False)),
    "llama-w3-group": Case(llama, CAUSAL, every(3, group=16)),
    "llama-w2-asym": Case(llama, CAUSAL, every(2, False)),
    "llama-w5-tensor-asym": Case(llama, CAUSAL, {"Linear": Scheme(num_bits=5, symmetric=False, strategy="tensor")}),
    "llama-mixed": Case(llama, CAUSAL, MIXED),
    "llama-mixed-fp16": Case(llama, CAUSAL, MIXED, HALF),
    "llama-w4-fp16": Case(llama, CAUSAL, every(4, group=32), HALF),
    "llama-w4-fp16-in-fp32": Case(llama, CAUSAL, every(4, group=32), HALF, FULL),
    "llama-w4-asym-bf16-in-fp32": Case(llama, CAUSAL, every(4, False, 16), BRAIN, FULL),
    "llama-w8-fp32-in-fp16": Case(llama, CAUSAL, every(8), None, HALF),
    "bert-w8": Case(bert, CLASSIFIER, every(8)),
    "bert-w4-asym": Case(bert, CLASSIFIER, every(4, False, 16)),
    "vit-w8": Case(vit, IMAGE, every(8)),
    "vit-w4": Case(vit, IMAGE, every(4, group=16)),
    "t5-w4": Case(t5, SEQ2SEQ, every(4, group=16), generate=True),
    "t5-w8-fp16": Case(t5, SEQ2SEQ, every(8), HALF),
    "whisper-w4-asym": Case(whisper, SPEECH, every(4, False, 16), generate=True),
}


def quantize(model: transformers.PreTrainedModel, schemes: dict[str, Scheme]) -> dict[str, QuantizedTensor]:
    """Quantize in place."""
    quantized: dict[str, QuantizedTensor] = {}
    for target, scheme in schemes.items():
        for layer in layers_to_quantize(model, scheme, [target], ["lm_head", "classifier"], quantized):
            quantized[layer.name] = round_to_nearest(layer.weight, scheme)
            layer.weight.data.copy_(quantized[layer.name].dequantize(layer.weight.dtype))
    return quantized


def model_in(source: Any, stored: dict[str, QuantizedTensor], saved: torch.dtype, loaded: torch.dtype) -> Any:
    """The model that a reload should be: floats through the saved dtype, quantized weights as their integers say."""
    model = type(source)._from_config(copy.deepcopy(source.config), dtype=loaded).eval()
    model.load_state_dict({k: v.to(saved).to(loaded) for k, v in source.state_dict().items()})
    linear = linear_layers(model)
    for name, tensor in stored.items():
        linear[name].weight.data.copy_(tensor.dequantize(linear[name].weight.dtype))
    return model


class Saved(NamedTuple):
    folder: Path
    model: Any
    quantized: dict[str, QuantizedTensor]
    stored: dict[str, QuantizedTensor]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Saved]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the process that reloads, so that sums run in the same order
    torch.manual_seed(0)
    result = {}
    sources = {build: build().eval() for build in INPUTS}
    for name, case in CASES.items():
        folder, model = tmp_path_factory.mktemp(name), copy.deepcopy(sources[case.build])
        quantized = quantize(model, case.schemes)
        stored = save_compressed(model, quantized, folder, save_dtype=case.save_dtype)
        on_disk = case.save_dtype or FULL
        wanted = model_in(model, stored, on_disk, case.load_dtype or on_disk)
        inputs = INPUTS[case.build]
        cast = {k: v.to(wanted.dtype) if v.is_floating_point() else v for k, v in inputs.items()}
        with torch.no_grad():
            tensors = {**inputs, "expected": wanted(**cast).logits}
            if case.generate:
                first = {k: v for k, v in cast.items() if not k.startswith("decoder")}
                tensors["tokens"] = wanted.generate(**first, max_new_tokens=4, do_sample=False)
        save_file({k: v.contiguous().clone() for k, v in tensors.items()}, folder / "expected.safetensors")
        result[name] = Saved(folder, model, quantized, stored)
    yield result
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def reloaded(saved: dict[str, Saved], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process without leptonsdk finds in the folders."""
    folder = tmp_path_factory.mktemp("reload")
    cases = {
        name: (str(saved[name].folder), case.auto, str(case.load_dtype or "").removeprefix("torch."), case.generate)
        for name, case in CASES.items()
    }
    (folder / "cases.json").write_text(json.dumps(cases))
    command = [sys.executable, "-c", RELOAD, str(folder / "cases.json"), str(folder / "results.json")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("name", CASES)
def test_a_process_without_leptonsdk_computes_the_same(name: str, reloaded: dict[str, Any]) -> None:
    result, case = reloaded[name], CASES[name]
    assert result["difference"] == 0.0
    assert result["finite"]
    assert result["tokens"]
    assert result["problems"] == []
    assert result["dtype"] == str(case.load_dtype or case.save_dtype or FULL)
    assert result["tied"] == (case.build in (llama, t5, whisper))


@pytest.mark.parametrize("name", CASES)
def test_integers_come_back(name: str, saved: dict[str, Saved]) -> None:
    folder, model, quantized, stored = saved[name]
    assert is_compressed(folder)
    loaded = load_compressed(folder)
    config = copy.deepcopy(model.config)
    fresh, report = type(model).from_pretrained(
        None, config=config, state_dict=loaded.state_dict, dtype=FULL, output_loading_info=True
    )
    assert not any(report.values())
    again = integers_by_module(fresh, loaded.quantized)
    assert again.keys() == quantized.keys()
    for layer, tensor in again.items():
        assert tensor.scheme == quantized[layer].scheme
        assert torch.equal(tensor.integers, quantized[layer].integers)
        assert torch.equal(tensor.scale, stored[layer].scale)
        assert tensor.scale.dtype == stored[layer].scale.dtype
        assert tensor.scheme.symmetric or torch.equal(tensor.zero_point, quantized[layer].zero_point)
        assert torch.equal(fresh.get_submodule(layer).weight, stored[layer].dequantize(FULL))
    save_compressed(fresh, again, folder / "again", save_dtype=CASES[name].save_dtype)
    first, second = (load_file(f / "model.safetensors") for f in (folder, folder / "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_quantized_tensor_that_no_layer_has_is_named(saved: dict[str, Saved]) -> None:
    _, model, quantized, _ = saved["bert-w8"]
    other = {"some.experts.0": round_to_nearest(torch.ones(48, 48), Scheme(num_bits=8))}
    with pytest.raises(
        CheckpointError, match=r"no linear layer or embedding with these quantized weights: some\.experts\.0"
    ):
        integers_by_module(model, {**quantized, **other})


def test_the_config_names_every_linear_layer_that_stays_in_float(saved: dict[str, Saved]) -> None:
    section = json.loads((saved["bert-w8"].folder / "config.json").read_text())["quantization_config"]
    assert section["ignore"] == ["classifier"]
    assert [g["targets"] for g in section["config_groups"].values()] == [["Linear"]]
    section = json.loads((saved["llama-mixed"].folder / "config.json").read_text())["quantization_config"]
    assert section["ignore"] == ["lm_head"]
    targets = [g["targets"] for g in section["config_groups"].values()]
    assert targets[0] == ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"]
    assert len(targets[1]) == 12


def test_the_folder_holds_no_quantized_weight_twice_and_half_the_floats_in_fp16(saved: dict[str, Saved]) -> None:
    state = load_file(saved["llama-w4-fp16"].folder / "model.safetensors")
    assert "model.layers.0.mlp.up_proj.weight" not in state
    assert "lm_head.weight" not in state
    assert {t.dtype for t in state.values()} == {HALF, torch.int32, torch.int64}
    assert json.loads((saved["llama-w4-fp16"].folder / "config.json").read_text())["dtype"] == "float16"


def test_saving_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = bert().eval()
    quantized = quantize(model, every(8))
    before, dtype = {k: v.clone() for k, v in model.state_dict().items()}, model.config.dtype
    save_compressed(model, quantized, tmp_path, save_dtype=HALF)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert model.config.dtype == dtype
    assert not hasattr(model.config, "quantization_config")


def test_shards(tmp_path: Path) -> None:
    model = llama().eval()
    quantized = quantize(model, every(4, group=32))
    save_compressed(model, quantized, tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert load_compressed(tmp_path).quantized.keys() == quantized.keys()
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_folder_made_by_compressed_tensors_itself(symmetric: bool, tmp_path: Path) -> None:
    model = llama().eval()
    group = {"targets": ["Linear"], "weights": every(4, symmetric, 32)["Linear"].to_weights()}
    named = {"targets": ["re:.*down_proj"], "weights": every(8, symmetric)["Linear"].to_weights()}
    config = QuantizationConfig(config_groups={"group_0": group, "group_1": named}, ignore=["lm_head"])
    apply_quantization_config(model, config)
    for name, module in linear_layers(model).items():
        if name != "lm_head":
            tensor = round_to_nearest(
                module.weight, every(8 if "down" in name else 4, symmetric, None if "down" in name else 32)["Linear"]
            )
            module.weight_scale.data.copy_(tensor.scale)
            if tensor.zero_point is not None:
                module.weight_zero_point.data.copy_(tensor.zero_point)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(tmp_path)
    compressor.update_config(str(tmp_path))
    loaded = load_compressed(tmp_path)
    assert len(loaded.quantized) == 14
    for name, module in linear_layers(model).items():
        if name != "lm_head":
            theirs = BaseCompressor.get_value_from_registry("pack-quantized").decompress(
                module.state_dict(), module.quantization_scheme
            )
            assert torch.equal(loaded.state_dict[f"{name}.weight"], theirs["weight"])
            assert loaded.quantized[name].scheme.num_bits == (8 if "down_proj" in name else 4)


def test_only_compressed_tensors_is_compressed(tmp_path: Path) -> None:
    assert not is_compressed(tmp_path)
    assert not is_compressed(transformers.BertConfig())
    assert not is_compressed({"quantization_config": {"quant_method": "gptq"}})
    assert is_compressed({"quantization_config": {"quant_method": "compressed-tensors"}})


def test_weights_that_changed_after_quantization_are_not_saved(tmp_path: Path) -> None:
    model = bert().eval()
    quantized = quantize(model, every(8))
    with torch.no_grad():
        model.get_submodule("bert.encoder.layer.1.output.dense").weight[0, 0] += 0.1
    with pytest.raises(
        CheckpointError, match=r"not what their integers say: bert\.encoder\.layer\.1\.output\.dense \("
    ):
        save_compressed(model, quantized, tmp_path)


@pytest.mark.parametrize(
    "name, message",
    [("lm_head", "an embedding too"), ("nothing", "no such module"), ("model.norm", "LlamaRMSNorm cannot be stored")],
)
def test_layers_that_cannot_be_stored_are_named(name: str, message: str, tmp_path: Path) -> None:
    model = llama()
    tensor = round_to_nearest(model.get_input_embeddings().weight, Scheme(num_bits=8))
    with pytest.raises(CheckpointError, match=f"layer '{name}': .*{message}"):
        save_compressed(model, {name: tensor}, tmp_path)


@pytest.mark.parametrize(
    "build, schemes",
    [
        (llama, {"down_proj": Scheme(num_bits=8), **every(4, False, 32)}),
        (t5, {"wo": Scheme(num_bits=8), **every(4, group=16)}),
    ],
)
def test_several_schemes_that_transformers_could_not_load_are_refused(
    build: Callable[[], Any], schemes: dict[str, Scheme], tmp_path: Path
) -> None:
    model = build()
    with pytest.raises(CheckpointError, match="transformers cannot load several schemes"):
        save_compressed(model, quantize(model, schemes), tmp_path)


def test_values_too_large_for_the_saved_dtype_are_named(tmp_path: Path) -> None:
    model = bert()
    quantized = quantize(model, every(8))
    model.bert.embeddings.word_embeddings.weight.data[3, 3] = 1e6
    with pytest.raises(CheckpointError, match=r"word_embeddings.*too large for float16"):
        save_compressed(model, quantized, tmp_path, save_dtype=HALF)


def edit(folder: Path, change: Callable[[dict[str, Any]], None], target: Path) -> Path:
    """A copy of a folder with its quantization section changed."""
    config = json.loads((folder / "config.json").read_text())
    change(config["quantization_config"])
    (target / "config.json").write_text(json.dumps(config))
    (target / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    return target


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.update(quant_method="gptq"), "not a compressed-tensors model"),
        (lambda s: s["config_groups"]["group_0"].update(format="float-quantized"), "'float-quantized' cannot be read"),
        (lambda s: s["config_groups"]["group_0"].update(input_activations={"num_bits": 8}), "activations"),
        (lambda s: s["config_groups"]["group_0"]["weights"].update(num_bits=3), "no config group has tensors"),
        (lambda s: s["config_groups"]["group_0"]["weights"].update(type="float"), "not integers"),
        (lambda s: s.update(kv_cache_scheme={"num_bits": 8}), "key-value cache"),
    ],
)
def test_folders_that_cannot_be_read_say_why(
    change: Callable[[dict[str, Any]], None], message: str, saved: dict[str, Saved], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_compressed(edit(saved["bert-w8"].folder, change, tmp_path))
