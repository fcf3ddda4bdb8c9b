"""Calibration inputs as a forward takes them, what layers read, and a checkpoint that gets integers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from leptonsdk.calibration import (
    Budget,
    Gram,
    attended,
    calibration_inputs,
    layers_by_input,
    one_row,
    watch_inputs,
)
from leptonsdk.checkpoint import Checkpoint, Source
from leptonsdk.hooks import StepContext
from leptonsdk.quantization import Scheme, round_to_nearest

_SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def bert() -> Any:
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(transformers.BertConfig(**_SMALL)).eval()


def t5() -> Any:
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config).eval()


def context(*batches: dict[str, torch.Tensor]) -> StepContext:
    def given(size: int) -> Iterator[dict[str, torch.Tensor]]:
        yield from batches

    return StepContext(seed=0, folder=Path(), batches=given)


def batch(rows: int = 3, length: int = 6) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 40, (rows, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[-1, 2:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def layers_of(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    return {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}


def test_a_forward_takes_what_comes_out() -> None:
    given = {**batch(), "labels": torch.tensor([0, 1, 0]), "idx": torch.arange(3)}
    (inputs,) = calibration_inputs(bert(), context(given), 4)
    assert set(inputs) == {"input_ids", "attention_mask"}
    bert()(**inputs)
    ids = batch()["input_ids"]
    floats = {"inputs_embeds": torch.ones(3, 6, 16), "decoder_input_ids": ids}
    (half,) = calibration_inputs(t5().to(torch.bfloat16), context(floats), 4)
    assert half["inputs_embeds"].dtype == torch.bfloat16
    assert half["use_cache"] is False
    assert {name: len(value) for name, value in one_row(inputs).items()} == {"input_ids": 1, "attention_mask": 1}


def test_an_encoder_decoder_without_text_writes_its_own() -> None:
    model = t5()
    (own,) = calibration_inputs(model, context(batch()), 4)
    assert own["decoder_input_ids"].shape[0] == 3
    labels = torch.tensor([[5, 6], [7, 8], [9, 1]])
    (given,) = calibration_inputs(model, context({**batch(), "labels": labels}), 4)
    assert given["decoder_input_ids"].tolist() == [[0, 5], [0, 7], [0, 9]]


def test_a_budget_wants_a_sixteenth_of_its_positions_in_the_decoder() -> None:
    budget = Budget(64)
    budget.add(batch(), 63)
    assert not budget.met
    budget.add(batch(), 1)
    assert budget.met
    speech = {"input_features": torch.ones(1, 8, 20), "decoder_input_ids": torch.ones(1, 2, dtype=torch.long)}
    budget = Budget(64)
    budget.add(speech, 500)
    assert not budget.met
    budget.add(speech, 500)
    assert budget.met


def test_a_gram_is_that_of_all_inputs() -> None:
    x = torch.randn(50, 200, generator=torch.Generator().manual_seed(0))
    gram = Gram(200, x.device)
    for part in (x[:20].bfloat16(), x[20:].bfloat16()):
        gram.add(part)
    full = x.bfloat16().double()
    torch.testing.assert_close(gram.mean().double(), full.t() @ full / 50, atol=1e-5, rtol=1e-5)
    assert gram.positions == 50


def test_layers_are_shown_what_they_read_without_padding() -> None:
    model, inputs = bert(), batch()
    seen: dict[str, torch.Tensor] = {}
    watch_inputs(model, layers_of(model), inputs, lambda name, x: seen.update({name: x}))
    attention, head = seen["bert.encoder.layer.0.attention.self.query"], seen["classifier"]
    assert attention.shape == (6 + 6 + 2, 16)
    assert head.shape == (3, 16)
    whole = model.bert.embeddings(inputs["input_ids"])
    torch.testing.assert_close(attention, whole[inputs["attention_mask"].bool()])
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert attended({"attention_mask": torch.ones(3, 6)}, whole) is None


def test_no_hook_stays_where_a_forward_fails() -> None:
    model = bert()

    def fail(name: str, x: torch.Tensor) -> None:
        raise RuntimeError(name)

    with pytest.raises(RuntimeError, match="query"):
        watch_inputs(model, layers_of(model), batch(), fail)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_layers_that_read_one_tensor_are_together() -> None:
    model = bert()
    groups = layers_by_input(model, layers_of(model), batch())
    ends = [" ".join(name.rpartition(".")[2] for name in names) for names in groups]
    assert ends == ["query key value", "dense", "dense", "dense", "dense", "classifier"]


def test_a_checkpoint_with_integers_computes_with_them_and_leaves_the_other_alone() -> None:
    source = Checkpoint.of(bert(), task="text-classification")
    name = "bert.encoder.layer.0.attention.self.query"
    before = source.model.get_submodule(name).weight.detach().clone()
    tensor = round_to_nearest(before, Scheme(num_bits=4))
    made = source.with_integers({name: tensor})
    assert torch.equal(made.model.get_submodule(name).weight, tensor.dequantize())
    assert torch.equal(source.model.get_submodule(name).weight, before)
    assert made.model is not source.model
    assert set(made.quantized) == {name}
    both = made.with_integers(
        {"classifier": round_to_nearest(source.model.classifier.weight, Scheme(num_bits=8))}, made.model
    )
    assert both.model is made.model
    assert set(both.quantized) == {name, "classifier"}


def test_scales_are_stored_as_the_source_stored_its_weights() -> None:
    checkpoint = Checkpoint.of(bert(), task="text-classification")
    assert checkpoint.scale_dtype == torch.float32
    half = checkpoint.replace(source=Source("hub", "a/b", None, "", torch.float16))
    assert half.scale_dtype == torch.float16
