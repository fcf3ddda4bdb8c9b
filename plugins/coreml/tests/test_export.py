"""What an export writes, and that the saved program computes what its source does."""

from __future__ import annotations

import json
import subprocess
import sys

import coremltools as ct
import numpy as np
import pytest
import torch
from leptonsdk_coreml import CoreMLBackend, CoreMLConfig
from leptonsdk_coreml.runner_reference import ReferenceProgram
from pydantic import ValidationError

from leptonsdk.checkpoint import Checkpoint
from leptonsdk.errors import ExportError, UsageError

ALL = ["bert", "roberta", "distilbert", "modernbert", "vit", "resnet", "llama", "mistral"]


@pytest.mark.parametrize("name", ALL)
def test_fp32_agrees_at_sizes_it_was_not_traced_with(exports, model, batch, name):
    source, runner = model(name), CoreMLBackend.load(exports(name), threads=1)
    for rows, length in ((1, 7), (5, 23)):
        inputs = batch(name, rows, length)
        with torch.no_grad():
            expected = source(**inputs).logits
        found = runner(**inputs).logits
        kept = inputs["attention_mask"].bool() if expected.dim() == 3 else slice(None)
        torch.testing.assert_close(found[kept], expected[kept], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_padding_changes_nothing(exports, batch, name):
    runner = CoreMLBackend.load(exports(name), threads=1)
    inputs = batch(name, 3, 9)
    kept = inputs["attention_mask"][2].bool()
    alone = {key: value[2:, kept] for key, value in inputs.items()}
    together, single = runner(**inputs).logits[2:], runner(**alone).logits
    together = together[:, kept] if together.dim() == 3 else together
    torch.testing.assert_close(together, single, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["bert", "vit", "llama"])
def test_precisions_are_smaller_and_close(exports, name):
    stored, apart = {}, {}
    for precision in ("fp32", "fp16", "int8", "int4", "palettized"):
        config = {"block_size": 16} if precision == "int4" else {}
        artifact = exports(name, precision, **config)
        profile = CoreMLBackend.weights(artifact)
        stored[precision], apart[precision] = profile.bits_per_weight, artifact.details["parity"]["relative_rms"]
    assert stored["fp32"] == 32
    assert stored["fp16"] < 17
    assert stored["int8"] < 11
    assert stored["int4"] < stored["int8"]
    assert stored["palettized"] < stored["fp16"]
    assert apart["fp32"] < apart["fp16"] < apart["int8"] < apart["int4"]
    assert apart["fp16"] < 0.01
    assert apart["int8"] < 0.1


def test_massive_activations_survive_half_precision(exports, tiny):
    """As language models have them at their first token: in fp16's range, while the mean of their squares is not."""
    source = tiny.build("llama")
    with torch.no_grad():
        source.get_input_embeddings().weight[:, 3] = 20_000.0
        source.model.layers[0].input_layernorm.weight[3] = 0.0
        for module in source.model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                module.weight.mul_(1e3)
                module.weight[3] = 0.0
    parity = exports(Checkpoint.of(source), "fp16").details["parity"]
    assert parity["relative_rms"] < 0.01


def test_weights_are_all_counted_and_tied_ones_once(exports, model):
    for name in ("bert", "llama"):
        profile = CoreMLBackend.weights(exports(name, "fp32"))
        assert profile.parameters == pytest.approx(model(name).num_parameters(), rel=0.03)


def test_embeddings_and_ignored_modules_stay_float(exports):
    artifact = exports("bert", "int8", embeddings="float", ignore=("re:.*layer\\.0\\.", "pooler.dense"))
    report = artifact.details["quantization"]
    assert "bert.embeddings.word_embeddings" in report["kept_in_float"]
    assert "bert.pooler.dense" in report["kept_in_float"]
    assert report["compressed"]
    assert all(".layer.1." in name for name in report["compressed"])
    with pytest.raises(ExportError, match="nothing was compressed"):
        exports("bert", "int8", ignore=("re:.*",))


def test_whoever_reads_the_runtime_knows_what_computed(exports):
    for precision, computes in (("fp32", "fp32)"), ("int8", "fp16 results, sums in fp32)")):
        runner = CoreMLBackend.load(exports("bert", precision))
        assert "reference evaluation, not executed by Core ML" in runner.runtime
        assert runner.runtime.endswith(computes)


def test_sizes_beyond_the_programs_are_refused(exports, batch):
    runner = CoreMLBackend.load(exports("bert"), threads=1)
    with pytest.raises(UsageError, match="'input_ids' has length 33.*at most 32"):
        runner(**batch("bert", 1, 33))
    with pytest.raises(TypeError, match="input_ids"):
        runner(attention_mask=torch.ones(1, 4))


def test_layout(exports):
    artifact = exports("bert")
    files = {path.relative_to(artifact.folder).as_posix() for path in artifact.folder.rglob("*") if path.is_file()}
    package = {f"coreml/model.mlpackage/{name}" for name in (
        "Manifest.json", "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin",
    )}  # fmt: skip
    assert files == {"config.json", "coreml/export.json", *package}
    assert set(artifact.files) == package
    assert json.loads(json.dumps(artifact.details))["minimum_deployment_target"] == "iOS18"


class _Bessel(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.i0e(x)


def test_unsupported_operations_are_named(exports, tiny):
    source = tiny.build("bert")
    source.bert.pooler.activation = _Bessel()
    with pytest.raises(ExportError, match="does not know: special_i0e"):
        exports(Checkpoint.of(source))


def test_encoder_decoders_are_refused_by_name(exports, tiny):
    with pytest.raises(ExportError, match="T5ForConditionalGeneration is an encoder-decoder"):
        exports(Checkpoint.of(tiny.build("t5")))


@pytest.mark.parametrize(
    "config",
    [
        {"precision": "int4", "minimum_deployment_target": "iOS17"},
        {"precision": "palettized", "minimum_deployment_target": "iOS16"},
    ],
)
def test_what_a_target_cannot_run_is_said_at_once(config):
    with pytest.raises(ValidationError, match="iOS18"):
        CoreMLConfig(**config)


def test_an_older_target_has_its_own_operations(exports):
    artifact = exports("vit", "int8", minimum_deployment_target="iOS16")
    assert artifact.details["parity"]["relative_rms"] < 0.1


# The greatest error of a weight, relative to the greatest of its row: of integers half a step, and what a scale in fp16 adds.
ERRORS = {"fp32": 0, "fp16": 6e-4, "int8": 0.75 / 127, "int4": 0.75 / 7, "palettized": 0.3}


@pytest.mark.parametrize(
    ("name", "precision"),
    [("bert", "fp32"), ("bert", "int8"), ("vit", "fp16"), ("llama", "int4"), ("llama", "palettized")],
)
def test_coremltools_alone_reads_ports_operations_and_weights(exports, model, alone, name, precision):
    artifact = exports(name, precision, **({"block_size": 16} if precision == "int4" else {}))
    found, source = alone(artifact), model(name)
    if name == "vit":
        sizes = {"pixel_values": [[1, 64], [3, 3], [16, 16], [16, 16]]}
    else:
        texts = ("input_ids", "attention_mask", "token_type_ids")[: 3 if name == "bert" else 2]
        sizes = {text: [[1, 64], [1, 32]] for text in texts}
    assert {key[6:]: value.tolist() for key, value in found.items() if key.startswith("input ")} == sizes
    linear = [module for module in source.modules() if isinstance(module, torch.nn.Linear)]
    assert found["operation linear"] == len(linear)
    compressed = sum(int(value) for key, value in found.items() if key.startswith("operation constexpr_"))
    assert compressed == len(artifact.details.get("quantization", {}).get("compressed", ()))
    tables = {key.replace(".", "_"): value for key, value in source.named_parameters() if value.dim() == 2}
    for key, weight in tables.items():
        names = (f"weight model_{key}{end}" for end in ("", "_to_fp16", "_to_fp16_quantized", "_to_fp16_palettized"))
        (read,) = (found[name] for name in names if name in found)
        assert ((read - weight).abs() <= ERRORS[precision] * weight.abs().amax(1, keepdim=True)).all(), key


def test_the_lines_for_macos_give_the_program_what_it_takes(exports, batch, monkeypatch):
    """Core ML is not here: what coremltools would hand to it is evaluated by reference."""
    artifact, inputs = exports("bert", "fp16"), batch("bert", 3, 6)

    class Model:
        def __init__(self, path):
            self.model = opened(path, skip_model_load=True)
            self.get_spec = self.model.get_spec

        def predict(self, feed):
            types = {port.name: port.type.multiArrayType.dataType for port in self.get_spec().description.input}
            assert {name: value.dtype for name, value in feed.items()} == {
                name: arrays[kind] for name, kind in types.items()
            }
            return ReferenceProgram(self.model)({name: torch.from_numpy(value) for name, value in feed.items()})

    opened, arrays = ct.models.MLModel, {ct.proto.FeatureTypes_pb2.ArrayFeatureType.INT32: np.dtype("int32")}
    monkeypatch.setattr(ct.models, "MLModel", Model)
    names = {}
    exec(CoreMLBackend.run_alone, names)
    found = names["run"](str(artifact.folder / artifact.entry), {name: value.numpy() for name, value in inputs.items()})
    monkeypatch.undo()
    torch.testing.assert_close(found["logits"], CoreMLBackend.load(artifact)(**inputs).logits)


def test_transformers_opens_the_folder(exports, batch):
    from leptonsdk_coreml.exporter import ExportedModel

    artifact, inputs = exports("bert", "fp16"), batch("bert", 3, 6)
    opened = ExportedModel.from_pretrained(artifact.folder / "coreml")
    found = opened(**inputs)
    assert type(found).__name__ == "SequenceClassifierOutput"
    torch.testing.assert_close(found.logits, CoreMLBackend.load(artifact)(**inputs).logits)


def test_transformers_exports_and_opens_again(model, batch, tmp_path):
    from leptonsdk_coreml.exporter import CoreMLExportConfig, CoreMLExporter, ExportedModel

    source, inputs = model("vit"), batch("vit", 2)
    exported = CoreMLExporter().export(source, inputs, CoreMLExportConfig(precision="fp32", max_batch_size=4))
    exported.save_pretrained(tmp_path)
    found = ExportedModel.from_pretrained(tmp_path)(**batch("vit", 3)).logits
    with torch.no_grad():
        torch.testing.assert_close(found, source(**batch("vit", 3)).logits, atol=1e-4, rtol=0)


def test_a_model_is_left_as_it_was(model, exports):
    source = model("bert")
    before = source.config._attn_implementation
    exports(Checkpoint.of(source), "fp16")
    assert source.config._attn_implementation == before


def test_importing_the_plugin_loads_nothing_heavy():
    code = "import sys, leptonsdk_coreml; print({'torch','coremltools','numpy','transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
