"""A push: what arrives, what stays, what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from server import Fault, Hub

import leptonsdk as lepton
from leptonsdk.artifact import Artifact, hash_files, manifest_bytes
from leptonsdk.errors import CheckpointError, HubError, UsageError
from leptonsdk.hub.layout import source_files
from leptonsdk.hub.push import GateRefusedError, Pushed
from leptonsdk.hub.signing import KeySigner, KeyVerifier
from leptonsdk.hub.source import find_source
from leptonsdk.pipeline.run import Run

Push = Callable[..., Pushed]


@pytest.fixture
def failed(run: Run, tmp_path: Path) -> Path:
    """The run, as if its gate had failed."""
    folder = tmp_path / "failed"
    shutil.copytree(run.folder, folder)
    state = json.loads((folder / "run.json").read_text())
    state["verdict"] = "fail"
    for condition in state["conditions"]:
        condition["verdict"] = "fail"
    (folder / "run.json").write_text(json.dumps(state))
    return folder


def test_a_push_brings_checkpoint_exports_card_and_manifest_in_one_commit(hub: Hub, push: Push, run: Run) -> None:
    pushed = push()
    repository = hub.repository("me/toy")
    assert repository.private, "a new repository is private unless somebody says otherwise"
    assert repository.head.sha == pushed.commit
    assert len(repository.commits) == 2, "the Hub's first commit, and ours"
    files = repository.files
    assert {
        "config.json",
        "model.safetensors",
        "onnx/model.onnx",
        "onnx/model_quantized.onnx",
        "tokenizer.json",
    } <= set(files)
    assert {"README.md", "LICENSE", "BASE_MODEL_CARD.md", "leptonsdk.json"} <= set(files)
    assert b"[original's card](BASE_MODEL_CARD.md)" in files["README.md"]
    assert json.loads(files["config.json"])["quantization_config"]["quant_method"] == "compressed-tensors"
    manifest = json.loads(files["leptonsdk.json"])
    assert manifest["sha256"] == {
        path: hashlib.sha256(content).hexdigest()
        for path, content in files.items()
        if path not in ("leptonsdk.json", ".gitattributes")
    }
    text = files["leptonsdk.json"].decode() + files["README.md"].decode()
    assert str(run.folder.parent) not in text, "no path of the machine may leave it"
    assert "hf_owner" not in text


def test_the_same_again_commits_nothing(hub: Hub, push: Push) -> None:
    first, again = push(), push()
    assert again.unchanged
    assert again.commit == first.commit
    assert set(hub.storage.uploads.values()) == {1}


def test_a_dry_run_sends_nothing(hub: Hub, push: Push) -> None:
    pushed = push(dry_run=True)
    assert pushed.commit is None
    assert "model.safetensors" in {file.path for file in pushed.prepared.files}
    assert not hub.storage.repositories
    assert not [line for line in hub.seen if line.startswith(("POST", "PUT"))]


def test_public_is_asked_for(hub: Hub, push: Push) -> None:
    push(public=True)
    assert not hub.repository("me/toy").private


def test_a_pull_request_leaves_the_main_branch_alone(hub: Hub, push: Push) -> None:
    hub.storage.create("them/toy", private=False)
    before = hub.repository("them/toy").head
    with pytest.raises(HubError, match="no right"):
        push("them/toy")
    pushed = push("them/toy", create_pr=True)
    repository = hub.repository("them/toy")
    assert pushed.pull_request == f"{hub.url}/them/toy/discussions/1"
    assert repository.head is before
    assert "model.safetensors" in repository.commits[repository.refs["refs/pr/1"]].files
    with pytest.raises(HubError, match="no such repository to open a pull request in"):
        push("them/other", create_pr=True)


def test_what_others_put_there_stays_and_what_we_no_longer_have_goes(hub: Hub, push: Push) -> None:
    push()
    repository = hub.repository("me/toy")
    repository.put("notes/photo.png", b"a picture")
    repository.put("onnx/export.json", b"changed by hand")
    pushed = push(artifacts=["onnxruntime-int8"])
    assert "notes/photo.png" in repository.files
    assert "onnx/model.onnx" in pushed.prepared.deleted
    assert "onnx/model.onnx" not in repository.files
    assert "onnx/model_quantized.onnx" in repository.files


def test_a_gate_that_did_not_pass_stops_a_push_unless_told(hub: Hub, push: Push, failed: Path) -> None:
    with pytest.raises(GateRefusedError, match="--allow-failed-gate") as caught:
        push(run=failed)
    assert caught.value.exit_code == 1
    assert not hub.storage.repositories
    push(run=failed, allow_failed_gate=True)
    card = hub.repository("me/toy").files["README.md"].decode()
    first = card.split("---\n", 2)[2].splitlines()[0]
    assert first.startswith("> **Warning: this model did not pass its own gate.")
    push()
    assert "did not pass" not in hub.repository("me/toy").files["README.md"].decode()


def test_artifacts_that_want_the_same_file_are_named(hub: Hub, push: Push, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "two"
    shutil.copytree(run.folder, folder)
    twin = folder / "artifacts" / "onnxruntime-int8-static"
    shutil.copytree(folder / "artifacts" / "onnxruntime-int8", twin)
    graph = twin / Artifact.open(twin).entry
    graph.write_bytes(graph.read_bytes() + b"another")
    state = json.loads((folder / "run.json").read_text())
    entry = next(e for e in state["artifacts"] if e["name"] == "onnxruntime-int8")
    state["artifacts"].append({**entry, "name": twin.name})
    state["work"][f"artifacts/{twin.name}"] = {"files": hash_files(twin)}
    (folder / "run.json").write_text(json.dumps(state))
    with pytest.raises(UsageError, match="both bring onnx/model_quantized.onnx.*--artifact"):
        push(run=folder)
    push(run=folder, artifacts=["onnxruntime-int8-static"])
    assert hub.repository("me/toy").files["onnx/model_quantized.onnx"].endswith(b"another")


def test_only_what_was_judged_is_pushed(hub: Hub, push: Push, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(run.folder, folder)
    (folder / "artifacts" / "onnxruntime-int8" / "onnx" / "model_quantized.onnx").write_bytes(b"damaged")
    with pytest.raises(UsageError, match=r"model_quantized\.onnx is not the file that the run judged"):
        push(run=folder)
    push(run=folder, artifacts=["onnxruntime-fp32"])


def test_without_a_step_the_source_stands_at_the_root_where_it_is_given(
    hub: Hub, push: Push, run: Run, source: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "exports"
    shutil.copytree(run.folder, folder)
    state = json.loads((folder / "run.json").read_text())
    state |= {"steps": [], "ledger": [row for row in state["ledger"] if row["kind"] != "compress"]}
    state["recipe"]["steps"] = []
    (folder / "run.json").write_text(json.dumps(state))
    push(run=folder)
    files = hub.repository("me/toy").files
    assert files["model.safetensors"] == (source / "model.safetensors").read_bytes()
    assert "quantization_config" not in json.loads(files["config.json"])
    assert b"original's own, unchanged" in files["README.md"]
    push(run=folder, source=None, license="mit")
    files = hub.repository("me/toy").files
    assert "model.safetensors" not in files
    assert {"config.json", "tokenizer.json", "onnx/model.onnx"} <= set(files)
    assert b"no weights: the source is no model of the Hub" in files["README.md"]
    other = tmp_path / "other"
    shutil.copytree(source, other)
    (other / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"config\.json is not the file that the run started from"):
        push(run=folder, source=other)


def test_a_sources_own_card_on_the_hub_is_read_for_its_licence(hub: Hub) -> None:
    base = hub.storage.create("them/base", private=False)
    model = {"kind": "hub", "id": "them/base"}
    api = HfApi(endpoint=hub.url, token="hf_owner")
    assert find_source(model, None, None, None, api).metadata == {}
    base.put("README.md", b"---\nlicense: other\nlicense_name: own\ntags: [a]\n---\n")
    base.put("LICENSE.md", b"Do as you like.")
    base.put("model.safetensors", b"weights")
    found = find_source(model, None, None, None, api)
    assert found.base_model == "them/base"
    assert found.metadata == {"license": "other", "license_name": "own"}
    assert found.folder is None, "its weights can be had where they are"
    assert found.told is not None
    assert {path.name for path in found.told.iterdir()} == {"README.md", "LICENSE.md"}
    files = {file.path for file in source_files(found.told, {}, weights=False)}
    assert files == {"LICENSE.md", "BASE_MODEL_CARD.md"}


def test_another_model_is_not_taken_for_the_source(push: Push, source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        push(source=tmp_path / "nothing")
    with pytest.raises(UsageError, match="no artifact 'onnxruntime-int9'.*Did you mean"):
        push(artifacts=["onnxruntime-int9"])


def test_without_a_token_nothing_is_tried(hub: Hub, push: Push) -> None:
    with pytest.raises(HubError, match="there is no token.*hf auth login"):
        push(token=None)
    assert not hub.storage.repositories


def test_the_token_is_the_hubs_own(hub: Hub, push: Push, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_owner")
    push(token=None)
    assert hub.repository("me/toy").head.parent is not None
    assert "hf_owner" not in caplog.text


def test_large_files_go_by_xet_where_the_client_has_it(
    hub: Hub, push: Push, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    hub.faults.append(Fault("POST", "/cas/v1/xorbs/", 403))
    with pytest.raises(HubError, match="no right"):
        push()
    assert "leptonsdk.json" not in hub.repository("me/toy").files
    hub.faults.append(Fault("POST", "/cas/v1/xorbs/", 0, after=1_000))  # cut once: hf-xet tries again
    push()
    assert hub.storage.xorbs
    weights = (run.folder / "steps" / "01-rtn" / "model.safetensors").read_bytes()
    assert hub.repository("me/toy").files["model.safetensors"] == weights
    assert push().unchanged


def test_a_signed_repository_is_checked_before_it_is_loaded(hub: Hub, push: Push, tmp_path: Path) -> None:
    private, public = key_pair(tmp_path)
    push(signer=KeySigner(private), artifacts=["onnxruntime-int8"])
    repository = hub.repository("me/toy")
    assert "model.sig" in repository.files
    where = {"token": "hf_owner", "endpoint": hub.url}
    assert lepton.verify("me/toy", **where).files.signature == "not checked"
    good = lepton.verify("me/toy", verifier=KeyVerifier(public), **where)
    assert (good.files.signature, good.exit_code) == ("good", 0)
    assert lepton.load_model(good.files.folder, verifier=KeyVerifier(public)).quantized
    _, other = key_pair(tmp_path)
    assert lepton.verify("me/toy", verifier=KeyVerifier(other), **where).exit_code == 1

    manifest = json.loads(repository.files["leptonsdk.json"])
    manifest["conditions"][0]["drop"] = -1.0  # hashes of files cannot tell: the manifest is not one of them
    repository.put("leptonsdk.json", manifest_bytes(manifest))
    assert lepton.verify("me/toy", **where).exit_code == 0
    forged = lepton.verify("me/toy", verifier=KeyVerifier(public), **where)
    assert (forged.files.signature, forged.exit_code) == ("it is of other files", 1)
    with pytest.raises(CheckpointError, match="signature is not good"):
        lepton.load_model(forged.files.folder, verifier=KeyVerifier(public))


def test_what_is_signed_is_checked_with_the_trusted_key_wherever_it_is_loaded(
    hub: Hub, push: Push, tmp_path: Path, bert_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = key_pair(tmp_path)
    push(signer=KeySigner(private), artifacts=["onnxruntime-int8"])
    folder = tmp_path / "copy"
    for name, content in hub.repository("me/toy").files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    monkeypatch.setenv("LEPTONSDK_PUBLIC_KEY", str(public))
    assert lepton.verify(folder).files.signature == "good"
    assert lepton.load_model(folder).quantized
    assert lepton.load_model(bert_folder), "not signed"
    _, other = key_pair(tmp_path)
    monkeypatch.setenv("LEPTONSDK_PUBLIC_KEY", str(other))
    with pytest.raises(CheckpointError, match="signature is not good"):
        lepton.load_model(folder)
    monkeypatch.setenv("LEPTONSDK_PUBLIC_KEY", str(tmp_path / "gone.pem"))
    with pytest.raises(UsageError, match="LEPTONSDK_PUBLIC_KEY"):
        lepton.load_model(folder)


def key_pair(folder: Path) -> tuple[Path, Path]:
    """A new elliptic-curve key, as PEM files."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = key.public_key().public_numbers().x  # unlike ids of objects, never twice the same
    files = folder / f"{name}.pem", folder / f"{name}.pub"
    files[0].write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()))
    files[1].write_bytes(key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo))
    return files
