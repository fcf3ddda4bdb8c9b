"""Which layers are quantized: those that the patterns mean, and no others."""

from __future__ import annotations

import pytest
from leptonsdk_bitsandbytes import BitsAndBytesCompressorConfig as Config
from leptonsdk_bitsandbytes.quantize_layers import layers_to_quantize, quantized_layers, skip_patterns
from pydantic import ValidationError
from torch import nn
from transformers.quantizers.quantizers_utils import should_convert_module

from leptonsdk.errors import UsageError


def test_patterns_mean_what_they_mean_for_rtn(tiny):
    smaller = tiny.compress("llama", targets=("self_attn.q_proj", "re:model.layers.1.mlp.*"), ignore=("up_proj",))
    assert quantized_layers(smaller.model) == {
        *(f"model.layers.{i}.self_attn.q_proj" for i in (0, 1)),
        *(f"model.layers.1.mlp.{part}_proj" for part in ("gate", "down")),
    }


def test_a_head_is_quantized_when_it_is_asked_for_and_not_tied(tiny):
    untied = tiny.checkpoint("llama", tie_word_embeddings=False)
    assert "lm_head" not in quantized_layers(tiny.compress(untied).model)
    assert quantized_layers(tiny.compress(untied, targets=("lm_head",), ignore=()).model) == {"lm_head"}
    tied = tiny.compress("llama", ignore=())
    assert "lm_head" not in quantized_layers(tied.model)
    assert tied.model.lm_head.weight is tied.model.model.embed_tokens.weight


def test_conv1d_of_gpt2_is_quantized(tiny):
    layers = quantized_layers(tiny.compress("gpt2").model)
    assert "transformer.h.0.attn.c_attn" in layers
    assert len(layers) == 8


def test_what_t5_keeps_in_float32_stays(tiny):
    model = tiny.compress("t5").model
    assert not any(name.endswith(".wo") for name in quantized_layers(model))
    assert any(name.endswith(".wi") for name in quantized_layers(model))


def test_four_bits_leave_layers_that_some_cpus_cannot_run(tiny):
    assert "classifier" not in quantized_layers(tiny.compress("bert").model)
    assert "classifier" in quantized_layers(tiny.compress("bert", quant_type="int8").model)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("bert", {"targets": ("classifier",)}, "classifier .64 inputs and 3 outputs"),
        ("llama", {"targets": ("lm_head",), "ignore": ()}, "its weight is an embedding too"),
        ("t5", {"targets": ("wo",)}, "keeps it in float32"),
        ("llama", {"targets": ("Embedding",)}, r"embed_tokens \(Embedding\)"),
        ("llama", {"targets": ("no_such_layer",)}, "no layer is left to quantize"),
    ],
)
def test_what_cannot_be_quantized_is_an_error_when_it_is_named(tiny, name, config, message):
    with pytest.raises(UsageError, match=message):
        tiny.compress(name, **config)


class Heads(nn.Module):
    """Names of which one ends with, begins with, or as a regular expression matches another."""

    def __init__(self) -> None:
        super().__init__()
        self.pre_classifier, self.classifier, self.classifier2 = (nn.Linear(64, 64) for _ in range(3))
        self.blocks = nn.ModuleList([nn.Linear(64, 64) for _ in range(12)])


@pytest.mark.parametrize("ignored", ["classifier", "pre_classifier", "blocks.1", "re:blocks.1$|classifier2"])
def test_skipping_one_layer_skips_no_other(ignored):
    model = Heads()
    layers = layers_to_quantize(model, Config(ignore=(ignored,)))
    patterns = skip_patterns(model, layers)
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert [name for name in linear if should_convert_module(name, patterns)] == layers
    assert 0 < len(linear) - len(layers) < 3


def test_options_of_another_type_are_refused():
    for options in (
        {"quant_type": "int8", "compute_dtype": "float16"},
        {"outlier_threshold": 5.0},
        {"quant_type": "int3"},
    ):
        with pytest.raises(ValidationError):
            Config(**options)
    assert all(field.description for field in Config.model_fields.values())


def test_a_plain_name_is_written_where_it_suffices(tiny):
    model = tiny.checkpoint("bert").model
    assert skip_patterns(model, layers_to_quantize(model, Config())) == ["classifier"]
