"""The generation loop gives what transformers' own gives, greedy and drawn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from leptonsdk.exporting import generate, logits_processors


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=90,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        initializer_range=0.3,
        pad_token_id=0,
        eos_token_id=None,
    )
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture
def prompt() -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 90, (3, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    return {"input_ids": ids, "attention_mask": mask}


def step_of(model: Any) -> Any:
    def step(tokens: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
        with torch.no_grad():
            found = model(tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
        return found.logits[:, -1], found.past_key_values

    return step


PROCESSORS: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.4},
    {"suppress_tokens": list(range(3, 60)), "begin_suppress_tokens": list(range(60, 85))},
]


@pytest.mark.parametrize("options", PROCESSORS)
def test_greedy_is_transformers_own(model: Any, prompt: dict[str, torch.Tensor], options: dict[str, Any]) -> None:
    expected = model.generate(**prompt, do_sample=False, max_new_tokens=12, **options)
    found = generate(
        step_of(model),
        **prompt,
        max_new_tokens=12,
        processors=logits_processors(**options, begin=prompt["input_ids"].shape[1]),
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("options", [{"top_k": 0}, {"temperature": 0.6, "top_k": 9, "top_p": 0.8}])
def test_draws_are_transformers_own(model: Any, prompt: dict[str, torch.Tensor], options: dict[str, Any]) -> None:
    torch.manual_seed(5)
    expected = model.generate(**prompt, do_sample=True, max_new_tokens=12, **options)
    torch.manual_seed(5)
    found = generate(
        step_of(model), **prompt, max_new_tokens=12, do_sample=True, processors=logits_processors(**options)
    )
    assert torch.equal(found, expected)


def test_a_seed_draws_the_same_again_and_leaves_torchs_alone(model: Any, prompt: dict[str, torch.Tensor]) -> None:
    before = torch.get_rng_state()
    first, again, other = (
        generate(step_of(model), **prompt, max_new_tokens=12, do_sample=True, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_rows_end_by_themselves(model: Any, prompt: dict[str, torch.Tensor]) -> None:
    free = generate(step_of(model), **prompt, max_new_tokens=12)
    ends = [int(free[0, 9]), int(free[1, 11])]
    expected = model.generate(**prompt, do_sample=False, max_new_tokens=12, eos_token_id=ends, pad_token_id=0)
    found = generate(step_of(model), **prompt, max_new_tokens=12, eos_token_id=ends, pad_token_id=0)
    assert torch.equal(found, expected)
