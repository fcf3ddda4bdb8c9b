"""The compressor on models of many architectures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from leptonsdk_wanda import Wanda, WandaConfig

from leptonsdk.checkpoint import Checkpoint, load_checkpoint
from leptonsdk.errors import UsageError
from leptonsdk.hooks import StepContext, load_plugins
from leptonsdk.quantization import choose_layers, weight_of
from leptonsdk.recipe import make_plan


def context(folder: Path, rows: list[dict[str, Any]] | None) -> StepContext:
    def batches(size: int) -> Iterator[dict[str, torch.Tensor]]:
        assert rows is not None
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            yield {key: torch.stack([torch.as_tensor(row[key]) for row in part]) for key in part[0]}

    return StepContext(seed=0, folder=folder, batches=None if rows is None else batches)


def layers(checkpoint: Checkpoint, config: WandaConfig) -> dict[str, torch.Tensor]:
    return {
        layer.name: layer.weight.detach() for layer in choose_layers(checkpoint.model, config.targets, config.ignore)
    }


@pytest.mark.parametrize("name", ["bert", "llama", "vit", "whisper", "t5"])
@pytest.mark.parametrize("pattern", [None, "2:4"])
def test_rows_lose_their_share_exactly_and_the_source_stays(
    tiny: Any, tmp_path: Path, name: str, pattern: str | None
) -> None:
    source = Checkpoint.of(tiny.build(name))
    before = {key: value.clone() for key, value in source.model.state_dict().items()}
    config = WandaConfig(sparsity=0.25, pattern=pattern)
    made = Wanda(config).compress(source, context(tmp_path, tiny.rows(name)))
    found = layers(made, config)
    assert len(found) >= 8
    for layer, weight in found.items():
        size, removed = config.group(weight.shape[1])
        zeros = (weight == 0).reshape(len(weight), -1, size).sum(2)
        assert bool((zeros == removed).all()), layer
        kept = weight != 0
        assert torch.equal(weight[kept], weight_of(source.model.get_submodule(layer))[kept]), layer
    assert all(torch.equal(value, before[key]) for key, value in source.model.state_dict().items())
    changed = {key for key, value in made.model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {f"{layer}.weight" for layer in found}


def test_later_layers_see_what_pruned_ones_give_them(tiny: Any, tmp_path: Path) -> None:
    """The last layer's mask is that of its inputs in the model pruned up to it."""
    rows, last = tiny.rows("llama"), "model.layers.1.mlp.down_proj"
    source = Checkpoint.of(tiny.build("llama"))
    made = Wanda(WandaConfig(sparsity=0.75)).compress(source, context(tmp_path, rows))
    seen: list[torch.Tensor] = []
    handle = made.model.get_submodule(last).register_forward_pre_hook(lambda _, x: seen.append(x[0].flatten(0, 1)))
    with torch.no_grad():
        made.model(torch.stack([row["input_ids"] for row in rows]))
    handle.remove()
    weight = source.model.get_submodule(last).weight.detach()
    score = weight.abs() * torch.cat(seen).square().sum(0).sqrt()
    expected = score > score.kthvalue(48, dim=1, keepdim=True).values
    assert torch.equal(made.model.get_submodule(last).weight != 0, expected)


def test_a_saved_folder_holds_the_zeros_and_a_second_time_changes_nothing(tiny: Any, tmp_path: Path) -> None:
    config, rows = WandaConfig(pattern="4:8"), tiny.rows("bert")
    made = Wanda(config).compress(Checkpoint.of(tiny.build("bert")), context(tmp_path, rows))
    made.save(tmp_path / "saved")
    loaded = load_checkpoint(tmp_path / "saved")
    again = Wanda(config).compress(loaded, context(tmp_path, rows))
    for layer, weight in layers(loaded, config).items():
        assert float((weight == 0).double().mean()) == Wanda(config).sparsity() == 0.5
        assert torch.equal(weight, weight_of(again.model.get_submodule(layer)))


def test_a_layer_that_calibration_does_not_reach_is_pruned_by_size(tiny: Any, tmp_path: Path) -> None:
    source = Checkpoint.of(tiny.build("bert"))
    source.model.unused = torch.nn.Linear(4, 1)
    source.model.unused.weight.data = torch.tensor([[3.0, -1.0, 2.0, -4.0]])
    made = Wanda(WandaConfig()).compress(source, context(tmp_path, tiny.rows("bert")))
    assert made.model.unused.weight.tolist() == [[3.0, 0.0, 0.0, -4.0]]


def test_what_cannot_be_done_is_said_first(tiny: Any, tmp_path: Path) -> None:
    source = Checkpoint.of(tiny.build("vit"))
    with pytest.raises(UsageError, match="calibration data is needed"):
        Wanda(WandaConfig()).compress(source, context(tmp_path, None))
    with pytest.raises(UsageError, match="no linear layer is left"):
        Wanda(WandaConfig(targets=("nothing",))).compress(source, context(tmp_path, tiny.rows("vit")))
    source.model.odd = torch.nn.Linear(6, 2)
    with pytest.raises(UsageError, match=r"the pattern 2:4 does not fit 6 inputs"):
        Wanda(WandaConfig(pattern="2:4")).compress(source, context(tmp_path, tiny.rows("vit")))
    broken = [{"pixel_values": torch.full((3, 16, 16), torch.nan)}]
    with pytest.raises(UsageError, match="not finite"):
        Wanda(WandaConfig()).compress(Checkpoint.of(tiny.build("vit")), context(tmp_path, broken))


def test_a_plan_wants_calibration_data_and_no_integers_before_it(tiny: Any, tmp_path: Path) -> None:
    Checkpoint.of(tiny.build("bert")).save(tmp_path / "model")
    recipe = {
        "version": 1,
        "model": {"id": str(tmp_path / "model"), "task": "text-classification"},
        "data": {"eval": {"path": "python-docstrings"}},
        "steps": [{"rtn": {"bit_width": 8}}, {"wanda": {"pattern": "2:8"}}],
    }
    with pytest.raises(UsageError) as raised:
        make_plan(recipe, load_plugins())
    assert "needs calibration data" in str(raised.value)
    assert "it may not follow 'rtn'" in str(raised.value)
