"""What an export writes, and that it computes what its source does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from leptonsdk_onnxruntime import OnnxRuntimeBackend, OnnxRuntimeConfig

from leptonsdk.errors import ExportError, UsageError
from leptonsdk.testing.alone import run_artifact

ALL = ["bert", "modernbert", "vit", "llama", "gpt2"]
INT8 = ["int8-dynamic", "int8-static"]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("rows", "length"), [(1, 7), (5, 23)])
def test_fp32_agrees_at_sizes_it_was_not_traced_with(exports, name, rows, length, tiny):
    model = tiny.models[name]().model
    batch = tiny.batch(name, rows, length, seed=9)
    with torch.no_grad():
        expected = model(**batch).logits
    found = OnnxRuntimeBackend.load(exports(name), threads=2)(**batch).logits
    kept = batch["attention_mask"].bool() if expected.dim() == 3 else slice(None)
    torch.testing.assert_close(found[kept], expected[kept], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("precision", INT8)
def test_int8_stays_close_to_its_source(exports, name, precision):
    parity = exports(name, precision).details["parity"]
    assert parity["cosine"] > 0.98
    assert parity["relative_rms"] <= parity["tolerance"]


@pytest.mark.parametrize("name", ["bert", "llama"])
@pytest.mark.parametrize("precision", ["fp32", "int8-static"])
def test_padding_changes_nothing(exports, name, precision, tiny):
    runner = OnnxRuntimeBackend.load(exports(name, precision), threads=2)
    batch = tiny.batch(name, 3, 9, seed=4)
    alone = {key: value[2:] for key, value in batch.items()}
    kept = alone["attention_mask"][0].bool()
    alone = {key: value[:, kept] for key, value in alone.items()}
    together, single = runner(**batch).logits[2:], runner(**alone).logits
    if together.dim() == 3:
        together = together[:, kept]
    torch.testing.assert_close(together, single, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ALL)
def test_int8_is_much_smaller(exports, name):
    assert exports(name, "int8").bytes_on_disk < 0.55 * exports(name).bytes_on_disk


def test_layout_is_the_hubs(exports):
    artifact = exports("bert")
    files = {path.relative_to(artifact.folder).as_posix() for path in artifact.folder.rglob("*") if path.is_file()}
    assert files == {"config.json", "tokenizer.json", "onnx/model.onnx", "onnx/model.onnx.data", "onnx/export.json"}
    assert exports("bert", "int8").entry == "onnx/model_quantized.onnx"
    assert (exports("llama").folder / "generation_config.json").is_file()


@pytest.mark.parametrize(("name", "precision"), [("bert", "fp32"), ("llama", "int8-static")])
def test_files_tell_nothing_about_the_machine(exports, name, precision):
    artifact = exports(name, precision)
    for path in artifact.folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"site-packages" not in content
            assert str(Path.home()).encode() + b"/" not in content
    onnx.checker.check_model(onnx.load(artifact.folder / artifact.entry))


def test_axes_have_readable_names(exports):
    inputs = {value["name"]: value["shape"] for value in exports("bert").details["inputs"]}
    assert inputs["input_ids"] == ["batch_size", "sequence_length"]
    inputs = {value["name"]: value["shape"] for value in exports("llama").details["inputs"]}
    assert inputs["past_key_values.0.key"] == ["batch_size", 2, "past_sequence_length", 16]


def test_details_are_json_and_tell_the_precision(exports):
    artifact = exports("bert", "int8")
    assert artifact.precision == "int8-dynamic"
    assert json.loads(json.dumps(artifact.details))["quantization"]["matmuls"] > 0
    assert artifact.details["quantization"]["calibration"] == {"method": "dynamic"}
    assert exports("bert", "int8-static").details["quantization"]["calibration"]["samples"] == 24
    assert "int8-dynamic" in OnnxRuntimeBackend.load(artifact).runtime


def test_ignored_modules_stay_float(exports):
    report = exports("bert", "int8", ignore=("*.intermediate.dense", r"re:encoder\.layer\.1\.")).details["quantization"]
    assert "bert.encoder.layer.0.intermediate.dense" in report["kept_in_float"]
    assert any(name.startswith("bert.encoder.layer.1.") for name in report["kept_in_float"])


def test_static_without_calibration_data_says_how_to_give_some(tmp_path, tiny):
    context = tiny.context("bert", tmp_path / "scratch", data=False)
    backend = OnnxRuntimeBackend(OnnxRuntimeConfig(precision="int8-static"))
    assert backend.calibration() == "required"
    with pytest.raises(UsageError, match=r"data\.calibration"):
        backend.export(tiny.models["bert"](), tmp_path, context)


def test_beyond_tolerance_is_an_error(tmp_path, tiny):
    context = tiny.context("vit", tmp_path / "scratch", data=False)
    with pytest.raises(ExportError, match="tolerance"):
        OnnxRuntimeBackend(OnnxRuntimeConfig(precision="int8", tolerance=1e-9)).export(
            tiny.models["vit"](), tmp_path, context
        )


def test_tied_weights_are_stored_once(exports, tiny):
    for precision in ("fp32", "int8"):
        profile = OnnxRuntimeBackend.weights(exports("llama", precision))
        model = tiny.models["llama"]().model
        assert profile is not None
        # Equal vectors (a random model's norms) are merged, rotary frequencies come on top; the table would add 12 %.
        assert profile.parameters == pytest.approx(model.num_parameters(), rel=0.01)
    assert OnnxRuntimeBackend.weights(exports("llama", "int8")).bits_per_weight < 10


@pytest.mark.parametrize(
    ("name", "precision"), [("bert", "fp32"), ("bert", "int8-dynamic"), ("bert", "int8-static"), ("vit", "int8-static")]
)
def test_onnxruntime_alone_computes_the_same(exports, name, precision, tiny):
    artifact, batch = exports(name, precision), tiny.batch(name, 3, 6, seed=3)
    expected = OnnxRuntimeBackend.load(artifact, threads=2)(**batch).logits
    torch.testing.assert_close(tiny.alone(artifact, batch)["logits"], expected, atol=1e-5, rtol=1e-5)


EXPORTED_MODEL = """
from pathlib import Path
import torch
from transformers.exporters import ExportedModel

def run(entry, inputs):
    model = ExportedModel.from_pretrained(Path(entry).parent)
    return {"logits": model(**{name: torch.as_tensor(value) for name, value in inputs.items()}).logits}
"""


@pytest.mark.parametrize(("name", "precision"), [("bert", "fp32"), ("vit", "int8-static")])
def test_transformers_exported_model_opens_it(exports, name, precision, tiny):
    artifact, batch = exports(name, precision), tiny.batch(name, 3, 6, seed=3)
    expected = OnnxRuntimeBackend.load(artifact, threads=2)(**batch).logits
    found = run_artifact(artifact.folder / artifact.entry, EXPORTED_MODEL, batch, name)
    torch.testing.assert_close(found["logits"], expected)


def test_importing_the_plugin_loads_nothing_heavy():
    code = "import sys, leptonsdk_onnxruntime; print({'torch','onnx','onnxruntime','numpy','transformers'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "set()"
    )
