"""Layers that differ, said by the config itself: a list by layer, or transformers' ``per_layer_config``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.models.qwen2 import modeling_qwen2

from leptonsdk.structure import find_units, fit_config, record_shapes, remove_heads, remove_neurons


class ByLayer(modeling_qwen2.Qwen2DecoderLayer):
    """A block that reads its sizes by layer, as transformers asks of models that support ``per_layer_config``."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config.per_layer_config[layer_idx], layer_idx)
        self.self_attn.config = config


def _saved_and_plainly_loaded(model: Any, folder: Path) -> Any:
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder).eval()


def test_a_model_that_reads_its_config_by_layer_is_loaded_by_plain_transformers(
    tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modeling_qwen2, "Qwen2DecoderLayer", ByLayer)
    model, inputs = tiny("qwen2")
    attentions, ffns = find_units(model, inputs)
    remove_heads(model, attentions[1], [0, 2])
    for i, ffn in enumerate(ffns[1:]):
        remove_neurons(model, ffn, range(20 + 4 * i))
    assert fit_config(model)
    assert not record_shapes(model)
    assert model.config.to_dict()["per_layer_config"] == {
        "1": {"intermediate_size": 20, "num_attention_heads": 4, "num_key_value_heads": 2},
        "2": {"intermediate_size": 24},
    }
    with torch.no_grad():
        expected = model(**inputs).logits
        assert torch.equal(_saved_and_plainly_loaded(model, tmp_path)(**inputs).logits, expected)
    # Another removal lays its numbers over those that are there.
    remove_neurons(model, find_units(model, inputs)[1][0], range(8))
    assert fit_config(model)
    assert [layer.intermediate_size for layer in model.config.per_layer_config] == [8, 20, 24]


def test_a_forward_that_reads_one_number_for_all_layers_keeps_its_config(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forward(ByLayer):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            assert self.self_attn.config.intermediate_size
            return super().forward(*args, **kwargs)

    monkeypatch.setattr(modeling_qwen2, "Qwen2DecoderLayer", Forward)
    model, inputs = tiny("qwen2")
    before = model.config.to_dict()
    remove_neurons(model, find_units(model, inputs)[1][0], range(8))
    assert not fit_config(model)
    assert model.config.to_dict() == before
    assert model(**inputs).logits.isfinite().all()


def test_a_list_by_layer_says_widths(tmp_path: Path, tiny: Any) -> None:
    model, inputs = tiny("gemma3n")
    ffns = [ffn for ffn in find_units(model, inputs)[1] if ffn.name.endswith("mlp")]
    remove_neurons(model, ffns[0], range(16))
    remove_neurons(model, ffns[2], range(24))
    assert fit_config(model)
    assert model.config.intermediate_size == [16, 48, 24]
    with torch.no_grad():
        again = _saved_and_plainly_loaded(model, tmp_path)
        assert isinstance(again, transformers.Gemma3nForCausalLM)
        assert torch.equal(again(**inputs).logits, model(**inputs).logits)
