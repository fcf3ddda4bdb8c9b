"""What an export writes, and that it computes what its source does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from leptonsdk_openvino import OpenVINOBackend, OpenVINOConfig
from leptonsdk_openvino.silence import converting

from leptonsdk.checkpoint import Checkpoint
from leptonsdk.errors import ExportError, UsageError
from leptonsdk.exporting import position_ids

ROUGH = {"tolerance": 0.35}  # 32 channels leave int8 activations little to average over
INT4 = {"group_size": 16, "tolerance": 0.6}
ONE_GRAPH = ["bert", "vit", "llama"]


def load(artifact):
    return OpenVINOBackend.load(artifact, threads=1)


def weight_bytes(artifact):
    """Without the graphs, which outweigh a tiny model's weights."""
    return sum((artifact.folder / name).stat().st_size for name in artifact.files if name.endswith(".bin"))


@pytest.mark.parametrize("name", ONE_GRAPH)
@pytest.mark.parametrize(("rows", "length"), [(1, 5), (5, 13)])
def test_fp32_agrees_at_sizes_it_was_not_traced_with(exports, make, name, rows, length):
    batch = make.batch(name, rows, length, seed=9)
    with torch.no_grad():
        expected = make.model(name)(**batch).logits
    found = load(exports(name))(**batch).logits
    kept = batch["attention_mask"].bool() if expected.dim() == 3 else slice(None)
    torch.testing.assert_close(found[kept], expected[kept], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [*ONE_GRAPH, "whisper"])
@pytest.mark.parametrize("precision", ["fp16", "int8", "int8-weights"])
def test_others_stay_close_and_are_smaller(exports, name, precision):
    full, small = exports(name), exports(name, precision, **ROUGH)
    parity = small.details["parity"]
    assert parity["cosine"] > (0.95 if precision == "int8" else 0.999)
    assert parity["measure"] == "relative_rms"
    bits = OpenVINOBackend.weights(small).bits_per_weight
    assert bits < (18 if precision == "fp16" else 16)
    assert OpenVINOBackend.weights(full).bits_per_weight == 32
    assert weight_bytes(small) < weight_bytes(full)


def test_int8_computes_in_int8_and_says_what_it_did(exports):
    artifact = exports("bert", "int8", **ROUGH)
    report = artifact.details["quantization"]["openvino_model"]
    assert report["samples"] == 24
    assert report["weights"] >= 8
    used = {op.get_rt_info()["runtimePrecision"].astype(str) for op in runtime_ops(artifact, "FullyConnected")}
    assert used & {"u8", "i8", "I8", "U8"}, used


def test_int4_weights_have_groups(exports):
    artifact = exports("llama", "int4-weights", **INT4)
    assert OpenVINOBackend.weights(artifact).bits_per_weight < 10
    assert artifact.details["quantization"]["openvino_model"]["precision"] == "int4-weights"


def runtime_ops(artifact, kind):
    compiled = load(artifact).compiled
    ops = compiled.get_runtime_model().get_ordered_ops()
    return [op for op in ops if op.get_rt_info()["layerType"].astype(str) == kind]


def test_ignored_modules_stay_float(exports):
    artifact = exports("bert", "int8", **ROUGH, ignore=("*.intermediate.dense", r"re:attention\.self\.(query|key)$"))
    kept = artifact.details["quantization"]["openvino_model"]["kept_in_float"]
    assert "bert.encoder.layer.0.intermediate.dense" in kept
    assert "bert.encoder.layer.0.attention.self.query" in kept
    assert "bert.encoder.layer.0.attention.self.value" not in kept
    more = exports("bert", "int8", **ROUGH).details["quantization"]["openvino_model"]["weights"]
    assert artifact.details["quantization"]["openvino_model"]["weights"] == more - len(kept)
    with pytest.raises(ExportError, match="nothing was quantized"):
        exports("bert", "int8-weights", ignore=("*",))


def test_layout_is_the_hubs(exports):
    def files(artifact):
        return {path.relative_to(artifact.folder).as_posix() for path in artifact.folder.rglob("*") if path.is_file()}

    model = {"openvino/openvino_model.xml", "openvino/openvino_model.bin"}
    assert files(exports("bert")) == {"config.json", *model}
    assert files(exports("llama")) == {"config.json", "generation_config.json", *model}
    parts = {f"openvino/openvino_{part}_model.{suffix}" for part in ("encoder", "decoder") for suffix in ("xml", "bin")}
    assert files(exports("whisper")) == {"config.json", "generation_config.json", *parts}
    assert set(exports("whisper").files) == parts


@pytest.mark.parametrize(("name", "precision"), [("bert", "int8"), ("whisper", "fp32")])
def test_files_tell_nothing_about_the_machine(exports, name, precision):
    artifact = exports(name, precision, **(ROUGH if precision == "int8" else {}))
    for path in artifact.folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"site-packages" not in content
            assert str(Path.home()).encode() + b"/" not in content


def test_the_inference_precision_is_the_one_that_was_asked_for(exports):
    assert "computes in f32" in load(exports("bert")).runtime
    half = exports("bert", inference_precision="bf16")
    assert half.details["inference_precision"] == "bf16"
    compiled = load(half).compiled
    asked = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    assert asked in load(half).runtime
    assert half.details["parity"]["measure"] == "relative_rms"
    assert "LATENCY" in str(compiled.get_property("PERFORMANCE_HINT"))
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1


def test_details_are_json_and_name_ports(exports):
    details = json.loads(json.dumps(exports("bert").details))
    assert {port["name"] for port in details["openvino_model"]["inputs"]} == {"input_ids", "attention_mask"}
    assert details["openvino_model"]["outputs"][0]["shape"] == [None, 2]
    names = {port["name"] for port in exports("llama").details["openvino_model"]["inputs"]}
    assert names == {"input_ids", "attention_mask", "position_ids", "beam_idx"}


def test_missing_inputs_are_made_or_named(exports, make):
    runner, ids = load(exports("bert")), torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        expected = make.model("bert")(input_ids=ids).logits
    torch.testing.assert_close(runner(input_ids=ids).logits, expected, atol=2e-5, rtol=1e-4)
    with pytest.raises(TypeError, match="input_ids"):
        runner(attention_mask=torch.ones(1, 3))


def test_tied_weights_are_stored_once(exports, make):
    for precision in ("fp32", "int8-weights"):
        profile = OpenVINOBackend.weights(exports("llama", precision, **(ROUGH if precision == "int8-weights" else {})))
        # Rotary frequencies come on top; the table again would add a tenth.
        assert profile.parameters == pytest.approx(make.model("llama").num_parameters(), rel=0.02)


def test_int8_without_calibration_data_says_how_to_give_some(tmp_path, make):
    backend = OpenVINOBackend(OpenVINOConfig(precision="int8"))
    assert backend.calibration() == "required"
    with pytest.raises(UsageError, match=r"data\.calibration"):
        backend.export(Checkpoint.of(make.model("bert")), tmp_path, make.context("bert", tmp_path / "s", data=False))


def test_beyond_tolerance_is_an_error(exports):
    with pytest.raises(ExportError, match="tolerance"):
        exports("vit", "int8", tolerance=1e-9)


@pytest.mark.parametrize(("name", "precision"), [("bert", "int8"), ("bert", "int8-weights"), ("vit", "fp16")])
def test_openvino_alone_computes_the_same(exports, make, name, precision):
    artifact, batch = exports(name, precision, **ROUGH), make.batch(name, 3, 7, seed=3)
    found = make.alone(artifact, batch)["logits"]
    torch.testing.assert_close(found, load(artifact)(**batch).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "int8", "int8-weights", "int4-weights"])
def test_openvino_alone_generates_the_same(exports, make, precision):
    options = {} if precision == "fp32" else INT4 if precision == "int4-weights" else ROUGH
    artifact, batch = exports("llama", precision, **options), make.batch("llama", 3, 7, seed=3)
    found, runner = make.alone(artifact, batch, new_tokens=12), load(artifact)
    logits = runner(**batch, position_ids=position_ids(batch["attention_mask"])).logits
    torch.testing.assert_close(found["logits"], logits, atol=1e-5, rtol=1e-5)
    assert torch.equal(found["ids"], runner.generate(**batch, max_new_tokens=12)[:, 7:])


def test_nothing_is_sent(monkeypatch):
    import openvino_telemetry
    from openvino_telemetry.backend.backend_ga4 import GA4Backend

    sent = []
    monkeypatch.setattr(GA4Backend, "send", lambda self, message: sent.append(message))
    monkeypatch.setattr(GA4Backend, "generate_new_cid_file", lambda self: sent.append("file"))
    with converting():
        telemetry = openvino_telemetry.Telemetry("x", "1", "G-X", "ga4", enable_opt_in_dialog=False)
        telemetry.init("x", "1", "G-X", "ga4", enable_opt_in_dialog=False)
        telemetry.send_event("a", "b", "c", force_send=True)
        telemetry.force_shutdown(1)
    assert sent == []


def test_importing_the_plugin_loads_nothing_heavy():
    code = (
        "import sys, leptonsdk_openvino; print({'torch','nncf','openvino','numpy','transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
