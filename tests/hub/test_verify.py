"""Verification: every byte counts, and what is claimed can be measured again; reproduction says what matched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from server import Hub
from typer.testing import CliRunner

import leptonsdk as lepton
from leptonsdk.artifact import MANIFEST, manifest_bytes
from leptonsdk.cli import app
from leptonsdk.errors import CheckpointError, HubError, RecipeError, UsageError
from leptonsdk.hub.push import Pushed

Push = Callable[..., Pushed]


@pytest.fixture
def repository(push: Push, tmp_path: Path) -> Path:
    """What a push would send, as a folder."""
    return placed(push(dry_run=True), tmp_path / "repository")


@pytest.fixture
def smaller(push: Push, tmp_path: Path) -> Path:
    """The same with one of the two exports, which is measured sooner."""
    return placed(push(dry_run=True, artifacts=["onnxruntime-int8"]), tmp_path / "repository")


def placed(pushed: Pushed, folder: Path) -> Path:
    for file in pushed.prepared.files:
        place = folder / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.content if isinstance(file.content, bytes) else file.content.read_bytes())
    return folder


def edit_manifest(folder: Path, change: Callable[[dict], object]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_bytes(manifest_bytes(manifest))


def test_one_byte_in_any_file_is_found_and_the_file_named(repository: Path) -> None:
    assert lepton.verify(repository).exit_code == 0
    files = [path for path in sorted(repository.rglob("*")) if path.is_file()]
    assert len(files) > 8
    for path in files:
        content, name = path.read_bytes(), path.relative_to(repository).as_posix()
        step = len(content) // 100 if path.name == MANIFEST else len(content)
        for place in range(len(content) // 2, 2 * len(content), max(step, 1)):
            place %= max(len(content), 1)
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :] if content else b"\0")
            assert found_in(repository) == name
        path.write_bytes(content)
    assert lepton.verify(repository).files.intact == len(files)


def found_in(repository: Path) -> str:
    """The one file that a verification names."""
    try:
        found = lepton.verify(repository)
    except CheckpointError as error:  # of a manifest that is none any more
        return MANIFEST if f"/{MANIFEST}: " in str(error) else str(error)
    assert found.exit_code == 1
    (name,) = found.files.changed
    return name


def test_missing_and_extra_files_are_listed(repository: Path) -> None:
    (repository / "onnx" / "model.onnx").unlink()
    (repository / "photo.png").write_bytes(b"a picture")
    (repository / ".gitattributes").write_text("the Hub's own")
    found = lepton.verify(repository).files
    assert (found.missing, found.extra, found.passed) == (("onnx/model.onnx",), ("photo.png",), False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest.update(schema=99), "schema 99"),
        (lambda manifest: manifest.pop("sha256"), "names no files"),
        (lambda manifest: manifest["sha256"].update({"../x": "0" * 64}), "outside of it"),
        (lambda manifest: manifest["sha256"].update({"config.json": "soon"}), "hash of config.json"),
        (lambda manifest: manifest["sha256"].pop("onnx/model.onnx"), "no hash of onnx/model.onnx"),
        (lambda manifest: manifest["artifacts"][1].pop("files"), "artifacts.1.files: Field required"),
        (lambda manifest: manifest.update(artifact={}), "artifact.backend: Field required"),
        (lambda manifest: manifest["conditions"][0].update(verdict="splendid"), "conditions.0.verdict"),
        (lambda manifest: manifest.pop("ledger"), "ledger: Field required"),
    ],
)
def test_a_manifest_that_is_none_is_refused(change: Callable[[dict], object], message: str, repository: Path) -> None:
    edit_manifest(repository, change)
    with pytest.raises(CheckpointError, match=message):
        lepton.verify(repository)


def test_a_manifest_that_is_no_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("[]")
    with pytest.raises(CheckpointError, match="manifest schema None"):
        lepton.verify(tmp_path)


def test_a_repository_on_the_hub_is_downloaded_and_verified(hub: Hub, push: Push) -> None:
    with pytest.raises(HubError, match="downloading me/toy: there is no such repository"):
        lepton.verify("me/toy", token="hf_owner", endpoint=hub.url)
    push()
    assert lepton.verify("me/toy", token="hf_owner", endpoint=hub.url).exit_code == 0
    graph = bytearray(hub.repository("me/toy").files["onnx/model.onnx"])
    graph[1000] ^= 1
    hub.repository("me/toy").put("onnx/model.onnx", bytes(graph))
    found = lepton.verify("me/toy", token="hf_owner", endpoint=hub.url)
    assert found.files.changed == ("onnx/model.onnx",)


def test_the_command_answers_in_words_and_in_json(repository: Path) -> None:
    good = CliRunner().invoke(app, ["verify", str(repository)])
    assert good.exit_code == 0
    assert "All files are as pushed" in good.stdout
    (repository / "config.json").write_text("{}")
    bad = CliRunner().invoke(app, ["verify", str(repository)])
    assert bad.exit_code == 1
    assert "changed: config.json" in bad.stdout
    answer = json.loads(CliRunner().invoke(app, ["verify", str(repository), "--json"]).stdout)
    assert (answer["changed"], answer["passed"], answer["exit_code"]) == (["config.json"], False, 1)


def test_what_is_claimed_is_measured_again(smaller: Path, source: Path, data: Path) -> None:
    def boast(manifest: dict) -> None:
        for condition in manifest["conditions"]:
            if condition["metric"] == "accuracy":
                condition["interval"] = [-0.9, -0.8]

    edit_manifest(smaller, boast)
    found = lepton.verify(smaller, gate=True, overrides=[f"model.id={source}", f"data.eval.path={data}"])
    assert found.files.passed
    assert {c.metric: c.inside for c in found.conditions} == {"accuracy": False, "size": True}
    assert all(c.verdict == "pass" for c in found.conditions)
    assert found.exit_code == 1, "a claim that does not hold here"
    assert not found.versions


def test_another_model_or_other_data_are_not_compared(
    repository: Path, llama_folder: Path, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError):
        lepton.verify(repository, gate=True)  # the source is a folder of somebody's machine
    edit_manifest(repository, lambda manifest: manifest["source"]["files"].update({"model.safetensors": "0" * 64}))
    data = tmp_path / "dev.tsv"
    data.write_text("sentence\tlabel\nfilm\t1\n")
    with pytest.raises(UsageError, match="not the one that the manifest names"):
        lepton.verify(repository, gate=True, overrides=[f"model.id={source}", f"data.eval.path={data}"])


def test_a_run_is_made_again_from_the_repository(
    smaller: Path, source: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_OFFLINE", True
    )  # as in the run: transformers saves it with a tokenizer
    here = [f"model.id={source}", f"data.eval.path={data}"]
    done = lepton.reproduce(smaller, tmp_path / "again", overrides=here)
    assert "model.safetensors" in done.same_files
    assert "onnx/model_quantized.onnx" in done.same_files
    assert not done.other_files
    assert all(same for values in done.values.values() for _, _, same in values.values())
    assert all(c.inside for c in done.conditions)
    assert done.exit_code == 0
