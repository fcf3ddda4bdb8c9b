"""Folders in the gptq format: another's reading of the layout agrees, integers come back, what has no place is named."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

import leptonsdk as lepton
from leptonsdk.errors import CheckpointError, UsageError
from leptonsdk.quantization import (
    QuantizedTensor,
    Scheme,
    layers_to_quantize,
    load_gptq,
    round_to_nearest,
    save_gptq,
)
from leptonsdk.quantization.tensor_gptq import pack_gptq, to_fp16, unpack_gptq

IDS = torch.tensor([[5, 9, 2, 40, 7, 3], [8, 1, 77, 4, 6, 2]])
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def llama(**options: Any) -> Any:
    torch.manual_seed(0)
    options = {"tie_word_embeddings": True, "attention_bias": True, **SIZES, **options}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=97, **options)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(0, 0.1)
    return model


def bert() -> Any:
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=97, num_labels=3, **SIZES)
    return transformers.BertForSequenceClassification(config).eval()


def vit() -> Any:
    return transformers.ViTForImageClassification(transformers.ViTConfig(image_size=32, patch_size=8, **SIZES))


def t5() -> Any:
    sizes = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 1, "num_heads": 4}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(vocab_size=97, **sizes))


def make(bits: int, symmetric: bool = True, group: int | None = 32) -> Scheme:
    strategy = "channel" if group is None else "group"
    return Scheme(num_bits=bits, symmetric=symmetric, strategy=strategy, group_size=group)


def quantize(model: Any, scheme: Scheme, ignore: tuple[str, ...] = ("lm_head", "classifier")) -> dict[str, Any]:
    """Quantize in place."""
    quantized = {}
    for layer in layers_to_quantize(model, scheme, ["Linear"], ignore):
        quantized[layer.name] = round_to_nearest(layer.weight, scheme)
        layer.weight.data.copy_(quantized[layer.name].dequantize(layer.weight.dtype))
    return quantized


def reference_weight(stored: dict[str, Tensor], bits: int) -> Tensor:
    """The weight ``[in, out]`` by the layout's description alone, bit by bit, in Python's own integers and float64."""

    def fields(words: list[int], count: int) -> list[int]:
        stream = sum((word & 0xFFFFFFFF) << (32 * i) for i, word in enumerate(words))
        return [(stream >> (bits * i)) & ((1 << bits) - 1) for i in range(count)]

    rows, columns = stored["g_idx"].numel(), stored["scales"].shape[1]
    q = [fields(column, rows) for column in stored["qweight"].t().tolist()]
    zeros = [fields(group, columns) for group in stored["qzeros"].tolist()]
    scales, groups = stored["scales"].double().tolist(), stored["g_idx"].tolist()
    return torch.tensor(
        [[scales[g][j] * (q[j][i] - (zeros[g][j] + 1)) for j in range(columns)] for i, g in enumerate(groups)],
        dtype=torch.float64,
    )


@st.composite
def tensors(draw: st.DrawFn) -> QuantizedTensor:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    weight = torch.randn(32 * draw(st.integers(1, 2)), 32 * draw(st.integers(1, 3)), generator=generator)
    if draw(st.booleans()):
        weight += draw(st.sampled_from([1.0, -1.0])) * weight.abs().max()  # zero points at the ends of their range
    scheme = make(draw(st.sampled_from([2, 3, 4, 8])), draw(st.booleans()), draw(st.sampled_from([None, 8, 16, 32])))
    return round_to_nearest(weight, scheme)


@settings(max_examples=40, deadline=None)
@given(tensors())
def test_packing_loses_nothing_but_the_scales_rounding(tensor: QuantizedTensor) -> None:
    stored, wanted = pack_gptq(tensor), to_fp16(tensor)
    assert torch.equal(reference_weight(stored, tensor.scheme.num_bits).t(), wanted.cast(torch.float64).dequantize())
    again = unpack_gptq(stored, tensor.scheme.group_size or -1)
    assert torch.equal(again.integers, tensor.integers)
    assert torch.equal(again.scale, wanted.scale)
    assert again.dequantize().equal(wanted.dequantize())
    if tensor.zero_point is not None and bool(tensor.zero_point.any()):
        assert again.scheme == tensor.scheme
        assert torch.equal(again.zero_point, tensor.zero_point)


def test_words_are_filled_as_autogptq_fills_them() -> None:
    """The three words of 32 3-bit integers, by the shifts of AutoGPTQ's `QuantLinear.pack`."""
    numbers = torch.randint(0, 8, (32,), generator=torch.Generator().manual_seed(0)).tolist()
    words = [0, 0, 0]
    for j in range(10):
        words[0] |= numbers[j] << (3 * j)
        words[1] |= numbers[11 + j] << (3 * j + 1)
        words[2] |= numbers[22 + j] << (3 * j + 2)
    words[0] |= (numbers[10] << 30) & 0xFFFFFFFF
    words[1] |= (numbers[10] >> 2) & 1 | (numbers[21] << 31) & 0xFFFFFFFF
    words[2] |= (numbers[21] >> 1) & 3
    integers = (torch.tensor(numbers) - 4).to(torch.int8).expand(32, 32).contiguous()
    tensor = QuantizedTensor(integers, torch.ones(32, 1), None, make(3, group=None))
    assert [int(w) & 0xFFFFFFFF for w in pack_gptq(tensor)["qweight"][:, 5]] == words


def test_a_zero_point_of_zero_is_turned_round_and_comes_back() -> None:
    weight = torch.linspace(0.5, 1, 32 * 32).reshape(32, 32)
    tensor = round_to_nearest(weight, make(4, symmetric=False))
    assert bool((tensor.zero_point == -8).all())
    stored = pack_gptq(tensor)
    assert bool((stored["scales"] < 0).all())
    assert set(stored["qzeros"].flatten().tolist()) == {0xEEEEEEEE - (1 << 32)}  # 15 - 1 in every place
    again = unpack_gptq(stored, 32)
    assert torch.equal(again.integers, tensor.integers)
    assert torch.equal(again.zero_point, tensor.zero_point)


@pytest.mark.parametrize("build", [llama, bert])
@pytest.mark.parametrize("scheme", [make(4), make(3, False), make(8, group=None), make(2, False, 16)], ids=str)
def test_a_folder_gives_its_integers_back(build: Callable[[], Any], scheme: Scheme, tmp_path: Path) -> None:
    model = build()
    quantized = quantize(model, scheme)
    stored = save_gptq(model, quantized, tmp_path)
    checkpoint = lepton.load_model(tmp_path)
    assert checkpoint.quantized.keys() == quantized.keys()
    wanted = copy.deepcopy(model)
    for name, tensor in checkpoint.quantized.items():
        assert tensor.scheme == scheme
        assert torch.equal(tensor.integers, quantized[name].integers)
        assert torch.equal(tensor.scale, stored[name].scale)
        wanted.get_submodule(name).weight.data.copy_(stored[name].dequantize(torch.float32))
    with torch.no_grad():
        assert torch.equal(checkpoint.model(IDS).logits, wanted(IDS).logits)
    lepton.save_model(checkpoint, tmp_path / "again", format="gptq")
    first, second = (load_file(f / "model.safetensors") for f in (tmp_path, tmp_path / "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_public_call_writes_it_on_request_only(tmp_path: Path, llama_folder: Path) -> None:
    smaller = lepton.quantize_model(llama_folder, scheme={"num_bits": 4, "strategy": "group", "group_size": 16})
    lepton.save_model(smaller, tmp_path / "a")
    lepton.save_model(smaller, tmp_path / "b", format="gptq", dtype=torch.float16)
    methods = [json.loads((tmp_path / f / "config.json").read_text())["quantization_config"] for f in "ab"]
    assert [m["quant_method"] for m in methods] == ["compressed-tensors", "gptq"]
    assert {t.dtype for t in load_file(tmp_path / "b/model.safetensors").values()} == {torch.int32, torch.float16}
    again = lepton.load_model(tmp_path / "b")
    assert all(torch.equal(again.quantized[name].integers, t.integers) for name, t in smaller.quantized.items())
    with pytest.raises(UsageError, match="Did you mean 'gptq'"):
        lepton.save_model(smaller, tmp_path / "c", format="gtpq")
    with pytest.raises(CheckpointError, match="no layer is quantized"):
        lepton.save_model(lepton.load_model(llama_folder), tmp_path / "d", format="gptq")


def test_a_kernel_that_would_drop_zero_points_is_avoided(tmp_path: Path) -> None:
    for i, (scheme, backend) in enumerate([(make(4), None), (make(4, False), "torch"), (make(3, False), None)]):
        model = llama()
        save_gptq(model, quantize(model, scheme), tmp_path / str(i))
        section = json.loads((tmp_path / str(i) / "config.json").read_text())["quantization_config"]
        assert section.get("backend") == backend


def test_the_config_tells_each_reader_which_layers_are_quantized(tmp_path: Path) -> None:
    model = llama()
    save_gptq(model, quantize(model, make(4)), tmp_path / "all")
    section = json.loads((tmp_path / "all/config.json").read_text())["quantization_config"]
    assert section["block_name_to_quantize"] == "", "the same for AutoModel, whose layers' names lack the first part"
    assert "self_attn.q_proj" in section["modules_in_block_to_quantize"][0]
    assert "dynamic" not in section
    assert "dataset" not in section
    model = llama()
    save_gptq(model, quantize(model, make(4), ("lm_head", r"re:.*\.1\..*v_proj")), tmp_path / "some")
    section = json.loads((tmp_path / "some/config.json").read_text())["quantization_config"]
    assert list(section["dynamic"]) == [r"-:^model\.layers\.1\.self_attn\.v_proj$"]
    assert "layers.0.self_attn.v_proj" in section["modules_in_block_to_quantize"][0]
    assert "layers.1.self_attn.v_proj" not in section["modules_in_block_to_quantize"][0]


@pytest.mark.parametrize(
    "build, scheme, message",
    [
        (llama, make(5), r"layer 'model\.layers\.0\.self_attn\.q_proj': .*cannot store W5A16 group 32"),
        (llama, Scheme(num_bits=4, strategy="tensor"), "by group or by channel"),
        (lambda: llama(intermediate_size=136), make(3, group=None), r"multiples of 32, not \[136, 64\]"),
        (vit, make(4), "text models only, and ViTForImageClassification reads pixel_values"),
        (t5, make(4), "text models only, without a decoder of their own"),
    ],
)
def test_what_the_format_has_no_place_for_is_named(
    build: Callable[[], Any], scheme: Scheme, message: str, tmp_path: Path
) -> None:
    model = build()
    with pytest.raises(CheckpointError, match=message):
        save_gptq(model, quantize(model, scheme), tmp_path)


def test_several_schemes_and_scales_beyond_fp16_are_refused(tmp_path: Path) -> None:
    model = llama()
    quantized = quantize(model, make(4), ("lm_head", "down_proj"))
    mixed = quantized | quantize(
        model, make(8), ("lm_head", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj")
    )
    with pytest.raises(CheckpointError, match="one scheme for all layers"):
        save_gptq(model, mixed, tmp_path)
    model = llama()
    model.model.layers[0].mlp.up_proj.weight.data.mul_(1e-9)
    with pytest.raises(CheckpointError, match=r"up_proj.*do not fit into fp16"):
        save_gptq(model, quantize(model, make(4)), tmp_path)


def edited(folder: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], None], target: Path) -> Path:
    """A copy of a folder with its quantization section and tensors changed."""
    config, state = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    change(config["quantization_config"], state)
    target.mkdir()
    (target / "config.json").write_text(json.dumps(config))
    save_file(state, target / "model.safetensors", {"format": "pt"})
    return target


LAYER = "model.layers.0.mlp.up_proj"


def _full_zero(section: dict[str, Any], state: dict[str, Tensor]) -> None:
    state[f"{LAYER}.qzeros"] |= 15


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s, t: t[f"{LAYER}.g_idx"].copy_(t[f"{LAYER}.g_idx"].flip(0)), f"layer '{LAYER}': .*activation order"),
        (lambda s, t: s.update(checkpoint_format="marlin"), "'marlin' cannot be read"),
        (lambda s, t: t.pop(f"{LAYER}.scales"), "scales missing"),
        (lambda s, t: t.update({f"{LAYER}.scales": torch.ones(3, 128)}), "tensors of these shapes"),
        (_full_zero, "zero points of 16"),
    ],
)
def test_folders_that_cannot_be_read_say_why(change: Any, message: str, tmp_path: Path) -> None:
    model = llama()
    save_gptq(model, quantize(model, make(4)), tmp_path / "good")
    with pytest.raises(CheckpointError, match=message):
        load_gptq(edited(tmp_path / "good", change, tmp_path / "bad"))


def test_a_strangers_folder_with_layers_of_their_own_bits_and_whole_zero_points(tmp_path: Path) -> None:
    """GPTQModel's `dynamic` gives layers other bits, and its `gptq_v2` stores zero points as they are."""
    model = llama()
    quantized = quantize(model, make(4, False), ("lm_head", "down_proj"))
    save_gptq(model, quantized, tmp_path / "v1")
    down = round_to_nearest(model.model.layers[0].mlp.down_proj.weight, make(8))

    def change(section: dict[str, Any], state: dict[str, Tensor]) -> None:
        del state["model.layers.0.mlp.down_proj.weight"]
        state |= {f"model.layers.0.mlp.down_proj.{key}": value for key, value in pack_gptq(down).items()}
        for name, tensor in state.items():
            if name.endswith("qzeros"):
                tensor += 0x01010101 if "down_proj" in name else 0x11111111
        section.update(checkpoint_format="gptq_v2", dynamic={r"+:.*down_proj": {"bits": 8}})

    loaded = load_gptq(edited(tmp_path / "v1", change, tmp_path / "v2"))
    assert torch.equal(loaded.quantized["model.layers.0.mlp.down_proj"].integers, down.integers)
    assert loaded.quantized["model.layers.0.mlp.down_proj"].scheme == make(8)
    for name, tensor in quantized.items():
        assert torch.equal(loaded.quantized[name].integers, tensor.integers)
        assert torch.equal(loaded.quantized[name].zero_point, tensor.zero_point)


RELOAD = """
import json, sys
sys.modules["leptonsdk"] = None  # importing it fails
import torch, transformers
from safetensors.torch import load_file
torch.set_num_threads(1)
base, report = transformers.AutoModel.from_pretrained(sys.argv[1], output_loading_info=True)
assert not report["missing_keys"], report
model, report = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], output_loading_info=True)
expected = load_file(sys.argv[1] + "/expected.safetensors")
with torch.no_grad():
    difference = (model.eval()(expected["ids"]).logits - expected["logits"]).abs().max().item()
json.dump([difference, [k for k, v in report.items() if v]], open(sys.argv[2], "w"))
"""


@pytest.mark.skipif(find_spec("gptqmodel") is None, reason="transformers loads the format with gptqmodel only")
@pytest.mark.parametrize(
    "scheme", [make(4), make(4, False, None), make(3), make(8, group=None), make(2, False)], ids=str
)
def test_a_process_without_leptonsdk_computes_the_same(scheme: Scheme, tmp_path: Path) -> None:
    model = llama()
    stored = save_gptq(model, quantize(model, scheme, ("lm_head", r"re:.*\.1\..*v_proj")), tmp_path)
    for name, tensor in stored.items():
        model.get_submodule(name).weight.data.copy_(tensor.dequantize(torch.float32))
    with torch.no_grad():
        logits = model(IDS).logits
    save_file({"ids": IDS, "logits": logits}, tmp_path / "expected.safetensors")
    command = [sys.executable, "-c", RELOAD, str(tmp_path), str(tmp_path / "result.json")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    difference, problems = json.loads((tmp_path / "result.json").read_text())
    assert difference <= 1e-3 * float(logits.abs().max())  # kernels of GPTQModel multiply in half precision
    assert problems == []
