"""Blocks that can be skipped are found by trial."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from leptonsdk.errors import UsageError
from leptonsdk.structure import deepest_stacks, skippable_layers


@pytest.mark.parametrize("name", ["bert", "distilbert", "vit", "llama", "gemma2", "gpt2"])
def test_all_blocks_can_be_skipped_and_nothing_is_changed(tiny: Any, name: str) -> None:
    model, inputs = tiny(name)
    before, config = copy.deepcopy(model.state_dict()), model.config.to_dict()
    stack, found = skippable_layers(model, inputs)
    assert found == list(range(len(stack)))
    assert next(iter(deepest_stacks(model).values())) is stack
    assert model.config.to_dict() == config
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_each_stack_of_an_encoder_decoder(tiny: Any) -> None:
    model, inputs = tiny("whisper")
    assert [len(skippable_layers(model, inputs, part)[1]) for part in ("encoder", "decoder")] == [2, 3]


def test_blocks_that_do_something_for_all_stay(tiny: Any) -> None:
    model, inputs = tiny("t5", num_layers=3)
    for part in ("encoder", "decoder"):
        assert skippable_layers(model, inputs, part)[1] == [1, 2], "the first holds the position biases"
    model, inputs = tiny("modernbert")
    assert skippable_layers(model, inputs)[1] == [1, 2], "the first has no norm before its attention"


def test_models_whose_blocks_cannot_go_are_refused(tiny: Any) -> None:
    model, inputs = tiny("dinov2")
    with pytest.raises(UsageError, match="config cannot say"):
        skippable_layers(model, inputs)
    model, inputs = tiny("bert", num_hidden_layers=1)
    with pytest.raises(UsageError, match="no stack of blocks"):
        skippable_layers(model, inputs)
