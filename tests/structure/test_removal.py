"""What is removed is gone, and the rest computes as if it had been masked."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from leptonsdk.errors import UsageError
from leptonsdk.structure import drop_layers, find_units, remove_heads, remove_neurons

NAMES = (
    "bert",
    "roberta",
    "distilbert",
    "vit",
    "llama",
    "qwen2",
    "whisper",
    "t5",
    "t5-gated",
    "gpt2",
    "deberta",
    "gemma2",
    "dinov2",
)


def _cut(model: Any, inputs: Any, mask: Any) -> tuple[Any, list[Any]]:
    """A copy with other heads and neurons removed in each layer; the model itself is masked accordingly."""
    smaller, handles = copy.deepcopy(model), []
    attentions, ffns = find_units(model, inputs)
    for i, attention in enumerate(attentions):
        keep = [i % attention.groups] if i % 2 else sorted({0, attention.groups - 1})
        handles += mask(model, attention, keep)
        assert remove_heads(smaller, attention, keep).groups == len(keep)
    for i, ffn in enumerate(ffns):
        keep = list(range(i % 3, ffn.neurons, 2 + i % 2))
        handles += mask(model, ffn, keep)
        assert remove_neurons(smaller, ffn, keep).neurons == len(keep)
    return smaller, handles


@pytest.mark.parametrize("implementation", [pytest.param(None, id="default"), "eager"])
@pytest.mark.parametrize("name", NAMES)
def test_removing_is_masking(tiny: Any, mask: Any, name: str, implementation: str | None) -> None:
    model, inputs = tiny(name, attn_implementation=implementation)
    whole = model(**inputs).logits
    smaller, _ = _cut(model, inputs, mask)
    masked, removed = model(**inputs).logits, smaller(**inputs).logits
    assert not torch.allclose(masked, whole, atol=1e-3), "the mask has an effect"
    assert torch.allclose(removed, masked, atol=1e-5, rtol=0)
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2", "whisper", "t5", "gpt2"])
def test_generation_with_a_cache(tiny: Any, mask: Any, name: str) -> None:
    model, inputs = tiny(name)
    smaller, _ = _cut(model, inputs, mask)
    given = {key: value for key, value in inputs.items() if not key.startswith("decoder")}
    options = {"max_new_tokens": 12, "do_sample": False, "use_cache": True}
    assert torch.equal(smaller.generate(**given, **options), model.generate(**given, **options))


def test_parameters_keep_what_they_are(tiny: Any) -> None:
    model, inputs = tiny("llama")
    model.to(torch.bfloat16)
    attentions, ffns = find_units(model, inputs)
    model.get_submodule(ffns[0].down).weight.requires_grad_(False)
    smaller = remove_heads(model, attentions[0], [2, 0])
    ffn = remove_neurons(model, ffns[0], [5, 1, 3])
    query, output = model.get_submodule(smaller.query), model.get_submodule(smaller.output)
    assert (query.out_features, query.in_features, *query.weight.shape) == (24, 48, 24, 48)
    assert (output.out_features, output.in_features, *output.weight.shape) == (48, 24, 48, 24)
    assert query.weight.dtype == torch.bfloat16
    assert query.weight.requires_grad
    assert not model.get_submodule(ffn.down).weight.requires_grad
    assert (smaller.heads, smaller.groups, ffn.neurons) == (4, 2, 3)
    attentions, ffns = find_units(model, inputs)
    assert (attentions[0], ffns[0]) == (smaller, ffn), "it is found again as it is described"


@pytest.mark.parametrize(
    ("keep", "message"),
    [([], "at least one"), ([4], "no index 4"), ([-1, 0], "no index -1"), ([1, 1], "stands twice")],
)
def test_what_cannot_be_kept(tiny: Any, keep: list[int], message: str) -> None:
    model, inputs = tiny("llama")
    attentions, ffns = find_units(model, inputs)
    with pytest.raises(UsageError, match=message):
        remove_heads(model, attentions[0], keep)
    with pytest.raises(UsageError, match=message.replace("4", "48")):
        remove_neurons(model, ffns[0], [48] if keep == [4] else keep)
    remove_neurons(model, ffns[0], [0])
    with pytest.raises(UsageError, match="the description that the last removal returned"):
        remove_neurons(model, ffns[0], [0])


@pytest.mark.parametrize("name", ["bert", "distilbert", "vit", "llama", "qwen2"])
def test_a_dropped_block_is_skipped(tiny: Any, name: str) -> None:
    model, inputs = tiny(name)
    smaller = copy.deepcopy(model)
    drop_layers(smaller, [0, 2])
    stack = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 3)
    block = stack[1]
    block.forward = lambda hidden_states, *args, **kwargs: hidden_states
    assert torch.allclose(smaller(**inputs).logits, model(**inputs).logits, atol=1e-6)
    assert smaller.config.num_hidden_layers == 2


def test_the_deepest_stack_is_shortened(tiny: Any) -> None:
    model, inputs = tiny("whisper")
    drop_layers(model, [0, 2])
    assert (model.config.encoder_layers, model.config.decoder_layers) == (2, 2)
    assert model.model.decoder.layers[1].self_attn.layer_idx == 1
    drop_layers(model, [1])
    assert (model.config.encoder_layers, model.config.decoder_layers) == (1, 1)
    given = {"input_features": inputs["input_features"]}
    tokens = [model.generate(**given, max_new_tokens=6, use_cache=cache, min_new_tokens=6) for cache in (True, False)]
    assert torch.equal(*tokens)


def test_blocks_that_hold_something_for_all_stay(tiny: Any) -> None:
    model, _ = tiny("t5")
    with pytest.raises(UsageError, match=r"block 0 holds .*relative_attention_bias.*keep 0"):
        drop_layers(model, [1])
    with pytest.raises(UsageError, match="no index 7"):
        drop_layers(model, [0, 7])
    drop_layers(model, [0])
    assert (model.config.num_layers, model.config.num_decoder_layers) == (1, 1)
    with pytest.raises(UsageError, match="no stack of blocks"):
        drop_layers(model, [0])


def test_a_depth_that_the_config_cannot_say_is_refused(tiny: Any) -> None:
    model, inputs = tiny("dinov2")  # it names the outputs of all its blocks
    before, expected = model.config.to_dict(), model(**inputs).logits
    with pytest.raises(UsageError, match="cannot say that 2 of 3 blocks are left"):
        drop_layers(model, [0, 2])
    assert model.config.to_dict() == before
    assert torch.equal(model(**inputs).logits, expected)
