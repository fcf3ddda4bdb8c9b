"""Folders with codebooks: plain floats for everyone, codebooks for us, and the two agree."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import leptonsdk as lepton
from leptonsdk.errors import CheckpointError, UsageError
from leptonsdk.evaluation.weights import profile_safetensors
from leptonsdk.quantization import CodebookTensor, QuantizedTensor, save_compressed
from leptonsdk.quantization.scheme_codebooks import SIDECAR

IDS = torch.arange(4, 20)[None]
EMBEDDINGS = {"bit_width": 8, "targets": ["Embedding"], "ignore": []}
KMEANS, NF4 = "KMEANS3", {"codebook": "nf4", "strategy": "group", "group_size": 16}

RELOAD = """
import sys
sys.modules["leptonsdk"] = None  # importing it fails
import torch, transformers
from safetensors.torch import load_file, save_file
torch.set_num_threads(1)
for folder in sys.argv[1:]:
    model, report = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    with torch.no_grad():
        save_file({"logits": model.eval()(torch.arange(4, 20)[None]).logits}, folder + "/found.safetensors")
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def untied_folder(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path) -> Path:
    model = lepton.load_model(llama_folder).model
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.flip(0))
    folder = tmp_path_factory.mktemp("untied")
    model.save_pretrained(folder)
    return folder


def mixtral() -> Any:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.MixtralConfig(vocab_size=64, num_key_value_heads=2, num_local_experts=4, **sizes)
    return transformers.MixtralForCausalLM(config)


def dinov2() -> Any:
    sizes = {"hidden_size": 48, "mlp_ratio": 2, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.Dinov2Config(image_size=8, patch_size=4, use_swiglu_ffn=True, **sizes)
    return transformers.Dinov2ForImageClassification(config)


def mixed(folder: Path) -> Any:
    first = lepton.quantize_model(folder, scheme=KMEANS, targets=["down_proj", "up_proj"])
    return lepton.quantize_model(first, bit_width=4, group_size=16)


def with_table(folder: Path) -> Any:
    return lepton.quantize_model(lepton.quantize_model(folder, bit_width=4, group_size=16), **EMBEDDINGS)


def test_a_process_without_leptonsdk_computes_the_same(tmp_path: Path, llama_folder: Path, untied_folder: Path) -> None:
    cases = {}
    kinds = {
        "kmeans": lepton.quantize_model(llama_folder, scheme=KMEANS),
        "nf4": lepton.quantize_model(llama_folder, scheme=NF4),
        "mixed": mixed(llama_folder),
        "table": with_table(llama_folder),
        "untied": with_table(untied_folder),
    }
    for name, dtype in (("full", None), ("half", torch.float16), ("brain", torch.bfloat16)):
        for kind, smaller in kinds.items():
            folder = tmp_path / f"{kind}-{name}"
            lepton.save_model(smaller, folder, dtype=dtype)
            again = lepton.load_model(folder, dtype=dtype)
            assert again.quantized.keys() == smaller.quantized.keys()
            for layer, tensor in smaller.quantized.items():
                wanted, found = tensor.cast(dtype or torch.float32), again.quantized[layer]
                assert found.scheme == tensor.scheme
                assert torch.equal(found.dequantize(), wanted.dequantize())
                assert torch.equal(again.model.get_submodule(layer).weight, wanted.dequantize())
                assert type(found) is type(tensor)
                if isinstance(tensor, QuantizedTensor):
                    assert torch.equal(found.integers, tensor.integers)
                if isinstance(tensor, CodebookTensor):
                    assert torch.equal(found.indices, tensor.indices)
                    assert torch.equal(found.codebook, wanted.codebook)
            with torch.no_grad():
                cases[str(folder)] = again.model(IDS).logits
            if dtype is None:
                with torch.no_grad():
                    assert torch.equal(cases[str(folder)], smaller.model(IDS).logits)
    command = [sys.executable, "-c", RELOAD, *cases]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    for folder, logits in cases.items():
        assert torch.equal(load_file(f"{folder}/found.safetensors")["logits"], logits), folder


@pytest.mark.parametrize("build", [mixtral, dinov2])
def test_layers_beside_weights_that_transformers_merges_or_splits(build: Callable[[], Any], tmp_path: Path) -> None:
    """Mixtral's experts are one weight in memory and stay in float; DINOv2's gated layers are halves of one on disk."""
    smaller = lepton.quantize_model(build().eval(), bit_width=4, group_size=16)
    lepton.save_model(smaller, tmp_path)
    inputs = (
        {"input_ids": IDS} if build is mixtral else {"pixel_values": torch.linspace(-1, 1, 192).reshape(1, 3, 8, 8)}
    )
    plain = type(smaller.model).from_pretrained(tmp_path).eval()
    again = lepton.load_model(tmp_path)
    with torch.no_grad():
        for model in (plain, again.model):
            assert torch.equal(model(**inputs).logits, smaller.model(**inputs).logits)
    assert again.quantized.keys() == smaller.quantized.keys()
    assert all(torch.equal(again.quantized[n].integers, t.integers) for n, t in smaller.quantized.items())
    with pytest.raises(CheckpointError, match=r"packed layers of .*merges or splits"):
        save_compressed(smaller.model, smaller.quantized, tmp_path / "packed")


def test_half_precision_goes_back_narrow_and_agrees_when_widened(tmp_path: Path, llama_folder: Path) -> None:
    lepton.save_model(lepton.load_model(llama_folder), tmp_path / "half", dtype=torch.float16)
    smaller = lepton.quantize_model(tmp_path / "half", scheme=NF4)
    assert smaller.model.dtype == torch.float32
    lepton.save_model(smaller, tmp_path / "narrow")
    assert {t.dtype for t in load_file(tmp_path / "narrow/model.safetensors").values()} == {torch.float16}
    again = lepton.load_model(tmp_path / "narrow")
    assert again.quantized.keys() == smaller.quantized.keys()
    lepton.save_model(again, tmp_path / "twice")
    for file in ("model.safetensors", SIDECAR):
        first, second = (load_file(tmp_path / name / file) for name in ("narrow", "twice"))
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_mixed_models_keep_integers_packed_and_codebooks_beside(tmp_path: Path, llama_folder: Path) -> None:
    smaller = mixed(llama_folder)
    lepton.save_model(smaller, tmp_path)
    section = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    books = {name for name, tensor in smaller.quantized.items() if isinstance(tensor, CodebookTensor)}
    assert books
    assert books < set(section["ignore"])
    state = load_file(tmp_path / "model.safetensors")
    assert all(f"{name}.weight" in state for name in books)
    integers = [name for name, tensor in smaller.quantized.items() if isinstance(tensor, QuantizedTensor)]
    assert all(f"{name}.weight_packed" in state for name in integers)
    assert profile_safetensors(tmp_path).parameters == sum(p.numel() for p in smaller.model.parameters())


def test_a_folder_without_codebooks_says_nothing_of_them(tmp_path: Path, llama_folder: Path) -> None:
    smaller = lepton.quantize_model(llama_folder, scheme=KMEANS)
    lepton.save_model(smaller, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "quantization_config" not in config
    assert SIDECAR not in json.dumps(config)
    packed = sum(3 * t.indices.numel() / 8 for t in smaller.quantized.values())
    with safe_open(tmp_path / SIDECAR, framework="pt") as file:
        indices = [file.get_tensor(key) for key in file.keys() if key.endswith("indices")]  # noqa: SIM118
    assert sum(4 * t.numel() for t in indices) == packed
    lepton.save_model(lepton.load_model(llama_folder), tmp_path)
    assert not (tmp_path / SIDECAR).exists(), "codebooks of what stood there before"
    assert lepton.load_model(tmp_path).quantized == {}


def test_codebooks_that_disagree_with_the_weights_are_refused(tmp_path: Path, llama_folder: Path) -> None:
    smaller = lepton.quantize_model(llama_folder, scheme=KMEANS)
    lepton.save_model(smaller, tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    name = next(iter(smaller.quantized))
    state[f"{name}.weight"][0, 0] += 0.1
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        CheckpointError, match=f"no linear layer or embedding with these quantized weights: {name}.*delete this file"
    ):
        lepton.load_model(tmp_path)
    with torch.no_grad():
        changed = copy.deepcopy(smaller.model)
        changed.get_submodule(name).weight[0, 0] += 0.1
    with pytest.raises(CheckpointError, match=f"not what their integers say: {name}"):
        lepton.save_model(smaller.replace(model=changed), tmp_path / "other")


def test_tied_tables_are_written_once_and_stay_tied(tmp_path: Path, llama_folder: Path) -> None:
    smaller = with_table(llama_folder)
    lepton.save_model(smaller, tmp_path / "a")
    state = load_file(tmp_path / "a/model.safetensors")
    assert "lm_head.weight" not in state
    assert profile_safetensors(tmp_path / "a").parameters == sum(p.numel() for p in smaller.model.parameters())
    again = lepton.load_model(tmp_path / "a")
    assert again.model.lm_head.weight is again.model.model.embed_tokens.weight
    base = lepton.load_model(tmp_path / "a", task="feature-extraction")  # whose names have no "model." before them
    assert torch.equal(base.quantized["embed_tokens"].integers, smaller.quantized["model.embed_tokens"].integers)
    section = json.loads((tmp_path / "a/config.json").read_text())["quantization_config"]
    assert section["ignore"] == ["lm_head"]
    with pytest.raises(CheckpointError, match=r"no place for Embedding: model\.embed_tokens"):
        lepton.save_model(smaller, tmp_path / "b", format="gptq")


@pytest.mark.parametrize(
    "metadata, message",
    [
        ({}, "cannot be read"),
        ({"leptonsdk": '{"version": 2}'}, "its version is 2"),
        ({"leptonsdk": '{"version": 1, "layers": {"a": {"scheme": {}, "shape": [1, 1]}}}'}, "cannot be read"),
    ],
)
def test_a_damaged_file_says_so(metadata: dict, message: str, tmp_path: Path, llama_folder: Path) -> None:
    lepton.save_model(lepton.load_model(llama_folder), tmp_path)
    save_file({"a.indices": torch.zeros(1, 1, dtype=torch.int32)}, tmp_path / SIDECAR, metadata)
    with pytest.raises(CheckpointError, match=message):
        lepton.load_model(tmp_path)


def test_gptq_has_no_place_for_codebooks_and_sizes_are_checked(tmp_path: Path, llama_folder: Path) -> None:
    with pytest.raises(CheckpointError, match="no place for codebooks"):
        lepton.save_model(mixed(llama_folder), tmp_path, format="gptq")
    with pytest.raises(UsageError, match=r"(?s)group_size 24 does not divide.*16"):
        lepton.quantize_model(llama_folder, scheme={"codebook": "kmeans", "strategy": "group", "group_size": 24})
    with pytest.raises(UsageError, match="Did you mean 'KMEANS4'"):
        lepton.quantize_model(llama_folder, scheme="KMEANS44")


def test_a_gptq_folder_is_counted_by_its_weights(tmp_path: Path, llama_folder: Path) -> None:
    smaller = lepton.quantize_model(llama_folder, bit_width=4, group_size=16)
    lepton.save_model(smaller, tmp_path, format="gptq", dtype=torch.float16)
    profile = profile_safetensors(tmp_path)
    assert profile.parameters == sum(p.numel() for p in smaller.model.parameters())
    assert profile.bits < 16 * profile.parameters
