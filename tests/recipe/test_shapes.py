"""Group sizes that do not fit the model are told when the plan is made, with the layers and the sizes that do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

from leptonsdk.errors import RecipeError
from leptonsdk.hooks import Plugins, load_plugins
from leptonsdk.recipe import make_plan


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return load_plugins()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny Llama whose width, 48, groups of 16 divide and groups of 32 do not."""
    folder = tmp_path_factory.mktemp("models") / "llama"
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=48, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    text = Path(folder).parent / "text.csv"
    text.write_text("text\nsome words to read\n")
    return {
        "version": 1,
        "model": {"id": str(folder), "task": "text-generation"},
        "data": {"eval": {"path": str(text)}},
    }


def test_the_layers_and_the_sizes_that_fit_are_named(recipe: dict[str, Any], plugins: Plugins) -> None:
    with pytest.raises(RecipeError) as caught:
        make_plan({**recipe, "steps": [{"rtn": {"bit_width": 4, "group_size": 32}}]}, plugins)
    (problem,) = caught.value.problems
    assert "48 inputs (fitting sizes: 16)" in problem.message
    assert "model.layers.0.self_attn.q_proj" in problem.message
    assert "down_proj" not in problem.message
    assert problem.hint is not None
    assert "group_size 16 fits all layers" in problem.hint
    make_plan({**recipe, "steps": [{"rtn": {"bit_width": 4, "group_size": 16}}]}, plugins)


def test_layers_of_an_earlier_step_do_not_count(recipe: dict[str, Any], plugins: Plugins) -> None:
    wide = {"rtn": {"bit_width": 8, "targets": ["re:.*self_attn.*", "gate_proj", "up_proj"]}}
    make_plan({**recipe, "steps": [wide, {"rtn": {"bit_width": 4, "group_size": 32}}]}, plugins)
