"""Targets: a plan warns of what is slow or unsupported where the model is to run, and says what is better there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from leptonsdk.cli import app
from leptonsdk.errors import RecipeError
from leptonsdk.hooks import load_plugins
from leptonsdk.recipe import make_plan
from leptonsdk.recipe.targets import known_targets

PLUGINS = load_plugins()


@pytest.fixture
def recipe(bert_folder: Path, tsv: Path) -> dict[str, Any]:
    return {
        "version": 1,
        "model": {"id": str(bert_folder)},
        "data": {name: {"path": str(tsv)} for name in ("eval", "train", "calibration")},
    }


def warnings(recipe: dict[str, Any], **more: Any) -> list[str]:
    return [str(problem) for problem in make_plan({**recipe, **more}, PLUGINS).warnings]


def pruned(structure: Any) -> dict[str, Any]:
    return {"train": {"with": [{"movement_pruning": {"final_sparsity": 0.5, "structure": structure}}]}}


CASES: list[tuple[str, dict[str, Any], str | None]] = [
    (
        "cpu-vnni",
        {"export": [{"onnxruntime": {"precision": "fp32"}}]},
        "slow: VNNI .* Better: `precision: int8-static`",
    ),
    ("cpu-vnni", {"export": [{"onnxruntime": {"precision": "int8"}}]}, None),
    ("cpu", {"export": [{"onnxruntime": {"precision": "int8"}}]}, "inaccurate: .*saturate.*reduce_range: true"),
    ("cpu", {"export": [{"onnxruntime": {"precision": "int8", "reduce_range": True}}]}, None),
    ("cpu-vnni", {"steps": [pruned("unstructured")]}, "slow: zeros"),
    ("cpu-vnni", {"steps": [pruned("block")]}, "slow: zeros"),
    ("cpu-vnni", {"steps": [pruned(["heads", "ffn"])]}, None),
    ("cpu-arm", {"steps": [{"wanda": {"sparsity": 0.5}}]}, "slow: zeros scattered"),
    ("cpu-vnni", {"export": [{"openvino": {"precision": "fp32"}}]}, "slow: VNNI .*inference_precision: bf16"),
    ("cpu-vnni", {"export": [{"openvino": {"precision": "int8"}}]}, None),
    ("android", {"export": [{"executorch": {"precision": "fp32"}}]}, "slow: four bytes"),
    ("android", {"export": [{"executorch": {"precision": "int8"}}]}, None),
    ("ios", {"export": [{"executorch": {"precision": "int8"}}]}, "slow: its kernels run on the CPU"),
    ("cloud-gpu", {"steps": [{"awq": {"bit_width": 3, "group_size": 32}}]}, "slow: .*Marlin"),
    ("cpu-arm", {"steps": [{"rtn": {"bit_width": 8}}], "export": ["onnxruntime"]}, "slow: weights are widened"),
    ("cpu-arm", {"export": ["onnxruntime"]}, None),
    ("cpu-arm", {"steps": [{"train": {"with": ["qat"]}}], "export": ["onnxruntime"]}, None),
    ("cloud-gpu", {"steps": [{"rtn": {"bit_width": 3, "group_size": 32}}]}, "slow: .*Marlin"),
    ("cloud-gpu", {"steps": [{"rtn": {"bit_width": 4, "group_size": 32}}]}, None),
    ("cloud-gpu", {"export": [{"onnxruntime": {"precision": "int8"}}]}, "unsupported: .*CUDA"),
]


@pytest.mark.parametrize(("target", "change", "expected"), CASES)
def test_poor_choices_are_said(
    recipe: dict[str, Any], target: str, change: dict[str, Any], expected: str | None
) -> None:
    import re

    assert warnings(recipe, **change) == []
    found = warnings(recipe, **change, target=target)
    if expected is None:
        assert found == []
    else:
        (warning,) = found
        assert f"on {target}: " in warning
        assert re.search(expected, warning)


def test_a_choice_that_is_good_on_one_of_several_targets_is_kept(recipe: dict[str, Any]) -> None:
    change = {"export": [{"onnxruntime": {"precision": "fp32"}}]}
    assert len(warnings(recipe, **change, target=["android", "cpu-vnni"])) == 2
    assert warnings(recipe, **change, target=["android", "cpu-arm"]) == []


def test_targets_of_ones_own(recipe: dict[str, Any], tmp_path: Path) -> None:
    board = {"description": "Ours", "backends": ["coreml"]}
    (tmp_path / "board.yaml").write_text(yaml.safe_dump({"board": board}), encoding="utf-8")
    file = tmp_path / "recipe.yaml"
    content = {**recipe, "export": ["onnxruntime"], "target": "board.yaml"}
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    (warning,) = make_plan(file, PLUGINS).warnings
    assert "onnxruntime does not run there" in str(warning)
    assert "Export to coreml" in str(warning)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("cpu-vni", "no target 'cpu-vni'. Did you mean 'cpu-vnni'"),
        ("none.yaml", "no file 'none.yaml'"),
        (["cpu", "iphone"], "no target 'iphone'"),
    ],
)
def test_unknown_targets_are_errors(recipe: dict[str, Any], target: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make_plan({**recipe, "target": target}, PLUGINS)


def test_a_file_that_is_no_target(recipe: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "board.yaml").write_text("board: {descripton: x}", encoding="utf-8")
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({**recipe, "target": "board.yaml"}), encoding="utf-8")
    with pytest.raises(RecipeError, match="descripton"):
        make_plan(file, PLUGINS)


def test_rules_name_what_exists() -> None:
    """Plugins, fields of their configs and values of them: a rule with a slip of the pen would never speak."""
    for name, target in known_targets().items():
        for rule in target.rules:
            if not rule.source.startswith("https://"):
                assert (Path(__file__).parents[2] / rule.source).is_file(), rule.source
            for plugin in rule.plugin:
                kind = "backend" if plugin in PLUGINS.names("backend") else "compressor"
                if plugin not in PLUGINS.names(kind):
                    continue  # a plugin that is not installed here
                fields = PLUGINS.get(kind, plugin).config_class.model_fields
                for field, value in rule.where.items():
                    assert field in fields, (name, plugin, field)
                    for one in value if isinstance(value, list) else [value]:
                        assert str(one) in str(fields[field].annotation) or isinstance(one, bool), (name, field, one)


def test_the_command_lists_them() -> None:
    text = CliRunner().invoke(app, ["targets"]).output
    assert all(name in text for name in known_targets())
    listed = json.loads(CliRunner().invoke(app, ["targets", "--json"]).output)
    assert listed["cpu-vnni"]["rules"][0]["level"] == "slow"
