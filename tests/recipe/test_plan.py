"""Plans: everything wrong with a recipe is said at once, with its line and the nearest word, before anything is loaded."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from leptonsdk.errors import RecipeError, UsageError
from leptonsdk.hooks import load_plugins
from leptonsdk.recipe import Recipe, make_plan
from leptonsdk.recipe.library import describe_recipe, shipped_recipes

PLUGINS = load_plugins()
FIVE_MISTAKES = """\
version: 1
model: {{id: {model}, tsk: text-classification}}
data:
  eval: {{path: {data}, columns: {{txt: sentence}}}}
steps:
  - rtn: {{bit_width: 9}}
  - rnt: {{bit_width: 8}}
gate:
  acuracy: {{max_drop: 0.01}}
"""


def write(path: Path, text: str) -> Path:
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def problems(recipe: Any, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        make_plan(recipe, PLUGINS, overrides=overrides)
    return [str(problem) for problem in caught.value.problems]


@pytest.fixture
def recipe(tmp_path: Path, bert_folder: Path, tsv: Path) -> dict[str, Any]:
    return {
        "version": 1,
        "model": {"id": str(bert_folder)},
        "data": {"eval": {"path": str(tsv)}},
        "steps": [{"rtn": {"bit_width": 8}}],
        "gate": {"accuracy": {"max_drop": 0.01}},
    }


def test_five_mistakes_five_messages_each_with_line_and_nearest_word(
    tmp_path: Path, bert_folder: Path, tsv: Path
) -> None:
    path = write(tmp_path / "bad.yaml", FIVE_MISTAKES.format(model=bert_folder, data=tsv))
    found = problems(path)
    assert len(found) == 5, found
    expected = [
        (2, "unknown key 'tsk'", "task"),
        (4, "no role 'txt'", "text"),
        (6, "bit", None),
        (7, "no compressor named 'rnt'", "rtn"),
        (9, "no metric 'acuracy'", "accuracy"),
    ]
    for message, (line, what, nearest) in zip(found, expected, strict=True):
        assert message.startswith(f"{path}:{line}:"), message
        assert what in message
        if nearest:
            assert f"Did you mean '{nearest}'?" in message


def test_the_command_ends_with_2_before_torch_is_imported(tmp_path: Path, bert_folder: Path, tsv: Path) -> None:
    path = write(tmp_path / "bad.yaml", FIVE_MISTAKES.format(model=bert_folder, data=tsv))
    code = (
        "import sys; sys.argv=['lepton','run',sys.argv[1],'--out',sys.argv[2]]\n"
        "from leptonsdk.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n"
        "    heavy = {'torch','transformers','datasets','numpy'} & set(sys.modules)\n"
        "    print('code', end.code, 'heavy', sorted(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "code 2 heavy []", done
    assert done.stderr.startswith("5 problems in the recipe:")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["plan", "quickstart"], ["recipes"], ["plugins", "list"]])
def test_the_light_commands_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv=['lepton',*{arguments!r}]\n"
        "from leptonsdk.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch','transformers','datasets','numpy','onnx','onnxruntime','scipy'} & set(sys.modules)\n"
        "print('heavy', sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("heavy []"), done


def test_python_and_yaml_mean_the_same(tmp_path: Path, recipe: dict[str, Any]) -> None:
    import yaml

    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    plans = [make_plan(source, PLUGINS) for source in (recipe, path, Recipe.model_validate(recipe))]
    assert plans[0].recipe == plans[1].recipe == plans[2].recipe
    assert [step.name for step in plans[1].steps] == ["01-rtn"]
    assert plans[0].task == "text-classification"


def test_overrides_are_laid_over_and_blamed(recipe: dict[str, Any]) -> None:
    plan = make_plan(recipe, PLUGINS, overrides=["steps.0.rtn.bit_width=4", "steps.0.rtn.group_size=16", "seed=7"])
    assert plan.steps[0].config.model_dump()["bit_width"] == 4
    assert plan.recipe.seed == 7
    assert recipe["steps"] == [{"rtn": {"bit_width": 8}}]
    (message,) = problems(recipe, "data.eval.limt=5")
    assert message.startswith("--set data.eval.limt=5:")
    assert "Did you mean 'limit'?" in message
    for wrong in ("seed", "=3", "steps.5.rtn={}", "version.a=1"):
        with pytest.raises(UsageError, match="--set"):
            make_plan(recipe, PLUGINS, overrides=[wrong])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "2 is not valid"),
        ({"model": {"id": "./nowhere"}}, "there is no such folder"),
        ({"model": {"id": "package://no_such_package_here/model"}}, "no package 'no_such_package_here' is installed"),
        ({"data": {"eval": {"path": "nowhere.tsv"}}}, "there is no 'nowhere.tsv'"),
        ({"data": {}}, "'eval' is missing"),
        ({"gate": {}}, "a gate without conditions proves nothing"),
        ({"gate": {"latency": {"batch_size": 1}}}, "give min_speedup or max_ms"),
        ({"gate": {"accuracy": {"max_drop": -1}}}, "greater than or equal to 0"),
        ({"gate": {"accuracy": {}}}, "'max_drop' is missing"),
        (
            {"gate": {"evaluate:x": {"max_drop": 0.1}}, "evaluation": {"metrics": ["accuracy"]}},
            "leaves 'evaluate:x' out",
        ),
        ({"steps": [{"rtn": {}, "other": {}}]}, "each entry names one compressor, this one 2"),
        ({"steps": {"rtn": {}}}, "valid list"),
        ({"export": ["nowhere"]}, "no backend named 'nowhere'"),
        ({"surprise": 1}, "unknown key 'surprise'"),
        ({"model": {"id": "x/y", "task": "text-clasification"}}, "Did you mean 'text-classification'?"),
    ],
)
def test_each_mistake_is_named(recipe: dict[str, Any], change: dict[str, Any], message: str) -> None:
    assert any(message in problem for problem in problems({**recipe, **change}))


def test_integers_that_a_runtime_cannot_hold_are_said(recipe: dict[str, Any]) -> None:
    scheme = {"num_bits": 4, "codebook": "nf4", "strategy": "group", "group_size": 32}
    books = {"steps": [{"rtn": {"scheme": scheme}}], "export": [{"onnxruntime": {}}]}
    (found,) = problems({**recipe, **books})
    assert "it cannot hold the weights that 'rtn' quantizes" in found
    assert "it has no operator for codebooks" in found
    floats = make_plan({**recipe, **books, "export": [{"onnxruntime": {"precision": "fp32"}}]}, PLUGINS)
    assert any("the numbers they stand for" in str(warning) for warning in floats.warnings)
    held = make_plan({**recipe, "export": [{"onnxruntime": {}}]}, PLUGINS)
    assert [step.name for step in held.exports] == ["onnxruntime"]
    assert not held.warnings


def trained(recipe: dict[str, Any], backend: str, precision: str, **qat: Any) -> dict[str, Any]:
    """The recipe with quantization-aware training, and an export of that."""
    data = {**recipe["data"], "train": recipe["data"]["eval"]}
    steps = [{"train": {"with": [{"qat": qat}]}}]
    return {**recipe, "data": data, "steps": steps, "export": [{backend: {"precision": precision}}]}


STATIC = [("onnxruntime", "int8-static"), ("openvino", "int8")]


@pytest.mark.parametrize(("backend", "precision"), STATIC)
def test_scales_of_inputs_take_the_place_of_data_only_where_they_are_trained(
    recipe: dict[str, Any], backend: str, precision: str
) -> None:
    assert not make_plan(trained(recipe, backend, precision), PLUGINS).warnings
    found = problems(trained(recipe, backend, precision, activation_bits=None))
    assert any("it needs calibration data" in problem for problem in found)


def test_a_backend_that_takes_no_such_scales_needs_data(recipe: dict[str, Any]) -> None:
    (found,) = problems(trained(recipe, "executorch", "int8-static"))
    assert "it needs calibration data" in found


@pytest.mark.parametrize(("backend", "precision"), STATIC)
@pytest.mark.parametrize(
    ("qat", "reason"),
    [({"group_size": 16}, "one scale for each output channel"), ({"symmetric": False}, "zero points")],
)
def test_trained_integers_that_no_kernel_multiplies_are_said(
    recipe: dict[str, Any], backend: str, precision: str, qat: dict[str, Any], reason: str
) -> None:
    (found,) = problems(trained(recipe, backend, precision, **qat))
    assert "it cannot multiply the weights that 'qat' quantizes (W8A16" in found
    assert reason in found
    assert make_plan(trained(recipe, backend, "auto", **qat), PLUGINS).exports


def test_what_cannot_be_timed_is_no_part_of_a_gate(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    backend = PLUGINS.get("backend", "onnxruntime")
    monkeypatch.setattr(backend, "untimed", classmethod(lambda cls: "it computes by reference"))
    exported = {**recipe, "export": [{"onnxruntime": {}}]}
    assert make_plan(exported, PLUGINS).exports
    gate = {**recipe["gate"], "latency": {"min_speedup": 2, "batch_size": 1}}
    (found,) = problems({**exported, "gate": gate})
    assert "its latency cannot be measured on this system: it computes by reference" in found
    assert "Leave latency out of the gate" in found


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    assert "cannot be read" in problems(tmp_path / "none.yaml")[0]
    assert "not valid YAML" in problems(write(tmp_path / "a.yaml", "version: [1\n"))[0]
    assert "is empty" in problems(write(tmp_path / "b.yaml", ""))[0]
    twice = "version: 1\nversion: 1\nmodel: {id: a/b}\ndata: {eval: {path: a/b}}\n"
    assert f"{tmp_path / 'c.yaml'}:2: version: stands twice" in problems(write(tmp_path / "c.yaml", twice))


def test_a_column_that_the_file_lacks_is_seen_at_plan_time(recipe: dict[str, Any], tsv: Path) -> None:
    recipe["data"] = {"eval": {"path": str(tsv), "columns": {"text": "sentense"}}}
    (message,) = problems(recipe)
    assert "no column 'sentense'" in message
    assert "Did you mean 'sentence'?" in message


def test_shipped_recipes_say_what_they_show() -> None:
    shipped = shipped_recipes()
    assert "quickstart" in shipped
    for path in shipped.values():
        assert len(describe_recipe(path)) > 20


def test_the_light_task_table_agrees_with_optimum() -> None:
    import transformers
    from optimum.exporters.tasks import TasksManager

    from leptonsdk.references import task_of_architecture

    for name in (
        "BertModel",
        "BertForSequenceClassification",
        "RobertaForTokenClassification",
        "BertForQuestionAnswering",
        "BertForMaskedLM",
        "LlamaForCausalLM",
        "GPT2LMHeadModel",
        "ViTForImageClassification",
        "Wav2Vec2ForCTC",
        "Wav2Vec2ForSequenceClassification",
        "HubertForSequenceClassification",
        "ASTForAudioClassification",
        "WhisperForConditionalGeneration",
        "T5ForConditionalGeneration",
    ):
        assert task_of_architecture(name) == TasksManager.infer_task_from_model(getattr(transformers, name)), name
