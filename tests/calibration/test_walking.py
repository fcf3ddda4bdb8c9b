"""The way through a model layer by layer: what each layer is said to see is what it sees, and nothing stays behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from leptonsdk.calibration import LayerByLayer, calibration_inputs
from leptonsdk.errors import UsageError
from leptonsdk.hooks import StepContext
from leptonsdk.quantization import choose_layers

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}


def build(name: str) -> Any:
    torch.manual_seed(0)
    if name == "bert":
        return BertForSequenceClassification(BertConfig(**SIZES)).eval()
    return LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=True)).eval()


def rows(count: int = 6) -> list[dict[str, torch.Tensor]]:
    """Batches of two, the second row half padding."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[1, 4:] = 0
    return [
        {"input_ids": torch.randint(1, 40, (2, 8), generator=generator), "attention_mask": mask} for _ in range(count)
    ]


def inputs(model: Any, batches: list[dict[str, torch.Tensor]]) -> Iterator[Any]:
    return calibration_inputs(model, StepContext(seed=0, folder=Path(), batches=lambda _: iter(batches)), 2)


def layers_of(model: Any) -> dict[str, nn.Module]:
    return {layer.name: layer.module for layer in choose_layers(model, ["Linear"], ["lm_head"])}


def seen_by(model: Any, name: str, batches: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    """What a layer reads in plain forwards, padding left out."""
    found: list[torch.Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, arguments: found.append(arguments[0]))
    with torch.no_grad():
        for batch in inputs(model, batches):
            model(**batch)
    handle.remove()
    kept = [x[batch["attention_mask"].bool()] if x.dim() == 3 else x for x, batch in zip(found, batches, strict=True)]
    return torch.cat(kept)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_each_layer_gets_what_it_sees_once_the_earlier_ones_have_changed(name: str) -> None:
    model, reference, batches = build(name), build(name), rows()
    visited: list[str] = []
    with LayerByLayer(model, layers_of(model), inputs(model, batches), positions=10_000) as walk:
        for group in walk:
            arrived = torch.cat([batch.x for batch in walk.arrived(group)])
            for layer in group.names:
                torch.testing.assert_close(arrived, seen_by(reference, layer, batches), rtol=1e-4, atol=1e-5)
            for layer in group.names:
                for changed in (model, reference):
                    changed.get_submodule(layer).weight.data.mul_(0.5)
            visited += group.names
    assert sorted(visited) == sorted(layers_of(model))
    assert (walk.positions, walk.rows) == (6 * (8 + 4), 12)


def test_the_source_stands_beside_what_is_new() -> None:
    model, batches = build("llama"), rows(2)
    layers = layers_of(model)
    with LayerByLayer(
        model,
        layers,
        inputs(model, batches),
        positions=100,
        new_weight=lambda name: layers[name].weight.detach() * 0.5,
        with_source=True,
    ) as walk:
        for group in walk:
            sources = torch.cat([batch.source for batch in walk.arrived(group) if batch.source is not None])
            torch.testing.assert_close(sources, seen_by(build("llama"), group.names[0], batches), rtol=1e-4, atol=1e-5)


def test_no_more_is_read_than_is_asked_for() -> None:
    model, read = build("bert"), []

    def counted(size: int) -> Iterator[Any]:
        for batch in rows():
            read.append(size)
            yield batch

    batches = calibration_inputs(model, StepContext(seed=0, folder=Path(), batches=counted), 2)
    with LayerByLayer(model, layers_of(model), batches, positions=13) as walk:
        list(walk)
    assert (len(read), walk.positions) == (2, 24)


def test_a_layer_that_no_batch_reaches_is_told() -> None:
    model = build("bert")
    model.unused = nn.Linear(4, 4)
    with LayerByLayer(model, layers_of(model), inputs(model, rows(1)), positions=10) as walk:
        list(walk)
    assert walk.unreached() == ["unused"]


def fail_at_first(walk: LayerByLayer, error: type[BaseException]) -> None:
    for _ in walk:
        raise error


@pytest.mark.parametrize("stop", ["break", "error", "interrupt", "no data"])
def test_nothing_is_left_on_the_model_however_it_ends(stop: str) -> None:
    model = build("llama")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    errors = {"error": RuntimeError, "interrupt": KeyboardInterrupt}
    if stop == "no data":
        with (
            pytest.raises(UsageError, match="calibration data is empty"),
            LayerByLayer(model, layers_of(model), inputs(model, []), positions=10),
        ):
            pass
    elif stop == "break":
        with LayerByLayer(model, layers_of(model), inputs(model, rows()), positions=10) as walk:
            for _ in walk:
                break
    else:
        with (
            pytest.raises(errors[stop]),
            LayerByLayer(model, layers_of(model), inputs(model, rows()), positions=10) as walk,
        ):
            fail_at_first(walk, errors[stop])
    assert torch.is_grad_enabled()
    assert all("forward" not in vars(module) and not module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_sources_weights_must_be_kept_where_they_are_asked_for() -> None:
    model = build("llama")
    with pytest.raises(ValueError, match="with_source needs new_weight"):
        LayerByLayer(model, layers_of(model), [], positions=1, with_source=True)
