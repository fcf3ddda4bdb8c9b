"""Shrunk models load again: by plain transformers where a config can say their shapes, else by `load_checkpoint`."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import leptonsdk as lepton
from leptonsdk.checkpoint import Checkpoint, Source, load_checkpoint, load_skeleton
from leptonsdk.errors import CheckpointError
from leptonsdk.references import Reference
from leptonsdk.structure import drop_layers, find_units, fit_config, record_shapes, remove_heads, remove_neurons
from leptonsdk.structure.shapes import FILE

TASKS = {
    "bert": "text-classification",
    "distilbert": "text-classification",
    "vit": "image-classification",
    "llama": "text-generation",
    "gpt2": "text-generation",
    "t5": "text2text-generation",
    "whisper": "automatic-speech-recognition",
}


def _checkpoint(model: Any, name: str) -> Checkpoint:
    return Checkpoint(model, None, TASKS[name], Source("folder", name, None, ""))


def _shrink(model: Any, inputs: Any, heads: bool, neurons: bool, uneven: bool = False) -> None:
    attentions, ffns = find_units(model, inputs)
    for i, attention in enumerate(attentions if heads else ()):
        remove_heads(model, attention, range(1, attention.groups - (i % 2 if uneven and attention.groups > 2 else 0)))
    for i, ffn in enumerate(ffns if neurons else ()):
        remove_neurons(model, ffn, range(0, 30 + i if uneven else 32, 2 if i % 2 and uneven else 1))


@pytest.mark.parametrize("name", TASKS)
def test_layers_of_different_shapes_load_again(tmp_path: Path, tiny: Any, name: str) -> None:
    model, inputs = tiny(name)
    _shrink(model, inputs, heads=True, neurons=True, uneven=True)
    model = copy.deepcopy(model)
    assert not fit_config(model)
    _checkpoint(model, name).save(tmp_path)
    again = load_checkpoint(tmp_path, task=TASKS[name])
    assert (tmp_path / FILE).is_file()
    assert type(again.model) is type(model)
    with torch.no_grad():
        assert torch.equal(again.model(**inputs).logits, model(**inputs).logits)
    assert find_units(again.model, inputs) == find_units(model, inputs)
    assert all(p.requires_grad for p in again.model.parameters())
    skeleton = load_skeleton(Reference("folder", name, tmp_path), TASKS[name])
    assert {n: p.shape for n, p in skeleton.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    again.save(tmp_path / "twice")
    assert (tmp_path / "twice" / FILE).read_bytes() == (tmp_path / FILE).read_bytes()


@pytest.mark.parametrize(
    ("name", "heads", "neurons", "blocks"),
    [
        ("llama", True, True, [0, 2]),
        ("llama", True, False, None),
        ("vit", True, True, [1, 2]),
        ("bert", False, True, [0]),
        ("distilbert", False, True, [0]),
        ("whisper", False, True, [0, 2]),
        ("t5", False, True, [0]),
        ("gpt2", False, True, [1]),
    ],
)
def test_plain_transformers_loads_even_shapes(
    tmp_path: Path, tiny: Any, name: str, heads: bool, neurons: bool, blocks: list[int] | None
) -> None:
    model, inputs = tiny(name)
    _shrink(model, inputs, heads, neurons)
    if blocks is not None:
        drop_layers(model, blocks)
    assert fit_config(model)
    assert not record_shapes(model)
    (tmp_path / FILE).write_text("{}")
    _checkpoint(model, name).save(tmp_path)
    assert not (tmp_path / FILE).exists(), "a stale file is removed"
    torch.save((inputs, model(**inputs).logits), tmp_path / "expected.pt")
    # In a process that has never heard of leptonsdk.
    script = (
        "import sys, torch, transformers\n"
        "torch.set_num_threads(1)\n"
        f"model = transformers.{type(model).__name__}.from_pretrained('.').eval()\n"
        "inputs, expected = torch.load('expected.pt')\n"
        "assert torch.equal(model(**inputs).logits, expected)\n"
        "assert 'leptonsdk' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_a_config_can_say_it_says(tiny: Any) -> None:
    model, inputs = tiny("llama")
    _shrink(model, inputs, heads=True, neurons=True)
    assert fit_config(model)
    config = model.config
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (6, 3, 6)
    assert config.intermediate_size == 32
    bert, inputs = tiny("bert")
    _shrink(bert, inputs, heads=True, neurons=True)
    assert not fit_config(bert), "BERT's head size is hidden size by heads"
    assert (bert.config.intermediate_size, bert.config.num_attention_heads) == (32, 4)
    record = record_shapes(bert)
    assert all("attention" in layer for layer in record.shapes)
    assert record.attributes["bert.encoder.layer.0.attention.self"] == {"num_attention_heads": 3, "all_head_size": 24}


def test_heads_that_differ_between_layers_are_not_said(tiny: Any) -> None:
    model, inputs = tiny("llama")
    before = model.config.to_dict()
    attentions, _ = find_units(model, inputs)
    remove_heads(model, attentions[0], [0])
    assert not fit_config(model)
    assert model.config.to_dict() == before
    assert len(record_shapes(model).shapes) == 4


def test_the_size_of_a_head_is_never_changed_for_their_number(tiny: Any) -> None:
    model, inputs = tiny("gemma2", head_dim=8, num_attention_heads=4, num_key_value_heads=2)
    attentions, _ = find_units(model, inputs)
    for attention in attentions:
        remove_heads(model, attention, [1])
    expected = model(**inputs).logits
    assert fit_config(model)
    config = model.config
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (2, 1, 8)
    assert torch.equal(model(**inputs).logits, expected)


def test_an_untouched_model_has_no_record(tiny: Any) -> None:
    for name in (*TASKS, "dinov2", "deberta", "gemma2"):
        model, _ = tiny(name)
        before = model.config.to_dict()
        assert fit_config(model)
        assert model.config.to_dict() == before
        assert not record_shapes(model)


@pytest.mark.parametrize(
    ("name", "format"), [("llama", "compressed-tensors"), ("bert", "compressed-tensors"), ("llama", "gptq")]
)
def test_quantized(tmp_path: Path, tiny: Any, name: str, format: str) -> None:
    model, inputs = tiny(name)
    attentions, ffns = find_units(model, inputs)
    for i, attention in enumerate(attentions if format != "gptq" else ()):  # its sizes are multiples of 8
        remove_heads(model, attention, range(3) if i % 2 else [0])
    for i, ffn in enumerate(ffns):
        remove_neurons(model, ffn, range(32 if i % 2 else 16))
    options = {"bit_width": 4, "group_size": -1} if format == "gptq" else {"bit_width": 8}
    smaller = lepton.quantize_model(_checkpoint(model, name), **options)
    assert smaller.quantized
    smaller.save(tmp_path, format=format)
    assert (tmp_path / FILE).is_file()
    again = load_checkpoint(tmp_path, task=TASKS[name])
    assert again.quantized.keys() == smaller.quantized.keys()
    tolerance = 1e-3 if format == "gptq" else 0.0  # its scales are rounded to fp16
    with torch.no_grad():
        there, back = smaller.model(**inputs).logits, again.model(**inputs).logits
    assert torch.allclose(back, there, rtol=0, atol=tolerance * 10)
    if not tolerance:
        assert torch.equal(back, there)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "damaged"),
        ('{"version": 2, "shapes": {}, "attributes": {}}', "version is 2"),
        ('{"version": 1, "shapes": {}}', "damaged: KeyError"),
        ('{"version": 1, "shapes": {"a": [1]}, "attributes": {}}', "damaged"),
        ('{"version": 1, "shapes": {"a": [0, 1]}, "attributes": {}}', "no shape"),
        ('{"version": 1, "shapes": {"nothing": [8, 8]}, "attributes": {}}', "no linear layer 'nothing'"),
        ('{"version": 1, "shapes": {}, "attributes": {"bert": {"forward": 1}}}', "cannot be set"),
        ('{"version": 1, "shapes": {}, "attributes": {"bert": {"num_heads": 1}}}', "no number 'num_heads'"),
        ('{"version": 1, "shapes": {"classifier": [9, 32]}, "attributes": {}}', "not those of the weights"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, tiny: Any, content: str, message: str) -> None:
    model, _ = tiny("bert")
    _checkpoint(model, "bert").save(tmp_path)
    (tmp_path / FILE).write_text(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(tmp_path, task="text-classification")
    assert FILE in str(caught.value)


def test_the_file_is_readable(tmp_path: Path, tiny: Any) -> None:
    model, inputs = tiny("whisper")
    attentions, _ = find_units(model, inputs)
    remove_heads(model, attentions[0], [0, 3])
    _checkpoint(model, "whisper").save(tmp_path)
    name = "model.encoder.layers.0.self_attn"
    assert json.loads((tmp_path / FILE).read_text()) == {
        "version": 1,
        "shapes": {
            **{f"{name}.{layer}_proj": [16, 32] for layer in "kqv"},
            f"{name}.out_proj": [32, 16],
        },
        "attributes": {name: {"embed_dim": 16, "num_heads": 2}},
    }
