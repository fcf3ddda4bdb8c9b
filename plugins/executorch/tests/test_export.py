"""What an export writes, and that it computes what its source does in ExecuTorch's own runtime."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from leptonsdk_executorch import ExecuTorchBackend, ExecuTorchConfig

from leptonsdk.checkpoint import Checkpoint
from leptonsdk.errors import ExportError, UsageError
from leptonsdk.testing.alone import run_artifact

CASES = [("bert", "fp32"), ("vit", "int8-static"), ("llama", "int8")]


def load(artifact):
    return ExecuTorchBackend.load(artifact, threads=1)


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


@pytest.mark.parametrize(("rows", "length"), [(1, 5), (11, 13)])
def test_fp32_agrees_at_sizes_it_was_not_traced_with(exports, make, rows, length):
    """11 rows are more than the program takes at once."""
    batch = make.batch("bert", rows, length, seed=9)
    found = load(exports("bert"))(**batch).logits
    torch.testing.assert_close(found, logits(make.model("bert"), batch), atol=2e-5, rtol=1e-4)
    assert exports("bert").details["parity"]["measure"] == "max_abs_diff"


@pytest.mark.parametrize(("name", "precision"), CASES[1:])
def test_int8_stays_close_and_stores_int8(exports, make, name, precision):
    artifact = exports(name, precision)
    assert artifact.precision == ("int8-dynamic" if precision == "int8" else precision)
    assert artifact.details["parity"]["cosine"] > 0.99
    assert artifact.details["parity"]["measure"] == "relative_rms"
    batch = make.batch(name, 3, 11, seed=4)
    found, expected = load(artifact)(**batch).logits, logits(make.model(name), batch)
    kept = batch["attention_mask"].bool() if expected.dim() == 3 else slice(None)
    assert not torch.equal(found[kept], expected[kept])
    assert torch.nn.functional.cosine_similarity(found[kept].flatten(), expected[kept].flatten(), dim=0) > 0.99
    program = (artifact.folder / artifact.entry).read_bytes()
    weights = [m.weight for m in make.model(name).modules() if isinstance(m, torch.nn.Linear) and len(m.weight) == 32]
    assert len(weights) > 2  # none of them stands there in floats
    assert not any(weight.detach().numpy().tobytes() in program for weight in weights)


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_executorch_alone_computes_the_same(exports, make, name, precision):
    artifact = exports(name, precision)
    batch = make.batch(name, 1 if name == "llama" else 3, 7, seed=3)  # a decoder's program takes one row
    entry, without = artifact.folder / artifact.entry, ("transformers", "torchao")
    found = run_artifact(entry, ExecuTorchBackend.run_alone, batch, "executorch", without)["logits"]
    torch.testing.assert_close(found, load(artifact)(**batch).logits, atol=1e-6, rtol=1e-6)


def test_the_folder_holds_a_program_and_what_belongs_to_it(exports):
    artifact = exports("bert")
    names = {path.relative_to(artifact.folder).as_posix() for path in artifact.folder.rglob("*") if path.is_file()}
    assert names == {"config.json", "export.json", "model.pte"}
    details = json.loads(json.dumps(artifact.details))
    assert details["inputs"][0] == {"name": "input_ids", "dtype": "int64", "shape": [[1, 8], [1, 32]]}
    assert details["outputs"] == ["logits"]
    for name in names:
        content = (artifact.folder / name).read_bytes()
        assert b"site-packages" not in content
        assert str(Path.home()).encode() + b"/" not in content


def test_missing_inputs_are_made_and_wrong_ones_are_named(exports, make):
    runner, ids = load(exports("bert")), torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(
        runner(input_ids=ids).logits, logits(make.model("bert"), {"input_ids": ids}), atol=2e-5, rtol=1e-4
    )
    with pytest.raises(TypeError, match="input_ids"):
        runner(attention_mask=torch.ones(1, 3))
    with pytest.raises(UsageError, match="up to 32, not 33"):
        runner(input_ids=torch.ones(1, 33, dtype=torch.long))


def test_outputs_stay_when_the_program_runs_again(exports, make):
    runner = load(exports("bert"))
    first = runner(**make.batch("bert", 2)).logits
    before = first.clone()
    runner(**make.batch("bert", 2, seed=5))
    assert torch.equal(first, before)


def test_beyond_tolerance_is_an_error(exports, make, tmp_path, monkeypatch):
    def made_before(model, inputs, limits, precision, calibration, folder):
        shutil.copyfile(exports("bert").folder / "model.pte", folder / "model.pte")
        return ["logits"]

    monkeypatch.setattr("leptonsdk_executorch.export.export_program", made_before)
    backend = ExecuTorchBackend(ExecuTorchConfig(tolerance=1e-12))
    with pytest.raises(ExportError, match="differs from its source"):
        backend.export(Checkpoint.of(make.model("bert")), tmp_path, make.context("bert", tmp_path / "scratch"))


def test_what_cannot_be_exported_is_said_first(make, tmp_path):
    backend = ExecuTorchBackend(ExecuTorchConfig(precision="int8-static"))
    assert backend.calibration() == "required"
    with pytest.raises(UsageError, match=r"data\.calibration"):
        backend.export(Checkpoint.of(make.model("vit")), tmp_path, make.context("vit", tmp_path / "s", data=False))
    with pytest.raises(ExportError, match="encoder-decoder"):
        backend.export(Checkpoint.of(make.model("t5")), tmp_path, make.context("bert", tmp_path / "s"))


def test_importing_the_plugin_loads_nothing_heavy():
    code = (
        "import sys, leptonsdk_executorch; print({'torch', 'executorch', 'numpy', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
