"""What goes wrong on the way: the repository is as it was or complete, the message says what to do, and a second push finishes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from server import Fault, Hub

from leptonsdk.artifact import sha256
from leptonsdk.errors import HubError
from leptonsdk.hub.push import Pushed
from leptonsdk.pipeline.run import Run

Push = Callable[..., Pushed]
REFUSED = {"X-Error-Message": "no"}
CASES = {
    "a bad token": (
        Fault("POST", "/create", 401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
        "does not accept the token",
    ),
    "no rights": (Fault("POST", "/create", 403, REFUSED), "no right to do this: no.*role `write`"),
    "gated": (Fault("GET", "/api/models/me/toy$", 403, {"X-Error-Code": "GatedRepo"}), "gated.*ask for access"),
    "the name is taken": (Fault("POST", "/create", 409), "there already.*another name"),
    "out of storage": (
        Fault("POST", "/lfs/", 403, {"X-Error-Message": "Private repository storage limit reached"}),
        "storage does not take it.*--artifact",
    ),
    "too large": (Fault("POST", "/commit/", 413), "storage does not take it"),
    "a card it refuses": (Fault("POST", "/validate-yaml", 400), "refuses the card's metadata"),
    "vanished": (Fault("POST", "/preupload/", 404, {"X-Error-Code": "RepoNotFound"}), "no such repository"),
    "moved meanwhile": (Fault("POST", "/commit/", 412), "somebody else committed meanwhile.*same command again"),
    "too many requests": (Fault("POST", "/commit/", 429, {"Retry-After": "7"}), "asks to wait 7 s"),
    "a fault of its own": (Fault("POST", "/commit/", 500), "fault of its own.*HTTP 500"),
    "always down": (Fault("POST", "/preupload/", 503, times=-1), "fault of its own.*HTTP 503"),
    "cut while uploading": (Fault("PUT", "/large/", 0, times=-1, after=1_000), "connection was cut.*goes on"),
    "cut at the commit": (Fault("POST", "/commit/", 0, after=1_000), "connection was cut"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_fault_leaves_the_repository_as_it_was_and_a_second_push_finishes(case: str, hub: Hub, push: Push) -> None:
    fault, message = CASES[case]
    fault = Fault(**vars(fault))
    hub.storage.create("me/toy", private=True)
    if "/create" in fault.path:
        del hub.storage.repositories["me/toy"]
    before = {name: repository.head.sha for name, repository in hub.storage.repositories.items()}
    hub.faults.append(fault)
    with pytest.raises(HubError, match=f"(?s){message}") as caught:
        push()
    assert "me/toy" in str(caught.value), "the message names the repository"
    assert "hf_owner" not in str(caught.value)
    assert {name: repository.head.sha for name, repository in hub.storage.repositories.items()} == before
    hub.faults.clear()
    assert not push().unchanged
    assert "leptonsdk.json" in hub.repository("me/toy").files


@pytest.mark.parametrize(
    "fault",
    [
        Fault("PUT", "/large/", 500),
        Fault("PUT", "/large/", 0, after=1_000),
        Fault("PUT", "/large/", 429, {"Retry-After": "1"}),
        Fault("POST", "/preupload/", 503),
    ],
    ids=["500 once", "cut once", "429 once", "503 once"],
)
def test_what_the_client_tries_again_itself_ends_well(fault: Fault, hub: Hub, push: Push) -> None:
    hub.faults.append(Fault(**vars(fault)))
    push()
    assert "model.safetensors" in hub.repository("me/toy").files


def test_a_commit_whose_answer_was_lost_is_found_to_be_there(hub: Hub, push: Push) -> None:
    hub.faults.append(Fault("POST", "/commit/", -1))
    pushed = push()
    assert pushed.commit == hub.repository("me/toy").head.sha
    assert push().unchanged


def test_somebody_elses_newer_commit_is_never_written_over(hub: Hub, push: Push) -> None:
    push()
    repository = hub.repository("me/toy")

    def meanwhile() -> None:
        repository.put("config.json", b"{}")

    hub.faults.append(Fault("POST", "/preupload/", -2, then=meanwhile))
    with pytest.raises(HubError, match="somebody else committed meanwhile"):
        push(artifacts=["onnxruntime-int8"])
    assert repository.files["config.json"] == b"{}"
    push(artifacts=["onnxruntime-int8"])
    assert repository.files["config.json"] != b"{}"


def test_offline_nothing_is_asked(hub: Hub, push: Push, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set.*unset it"):
        push()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(HubError, match=r"cannot be reached.*check the network"):
        push(endpoint="http://127.0.0.1:1")
    with pytest.raises(HubError, match=r"no repository's name.*owner/name"):
        push("me/toy/too/deep")


def test_a_push_that_is_killed_goes_on_without_sending_again_what_arrived(hub: Hub, run: Run, tmp_path: Path) -> None:
    artifact = run.artifact("onnxruntime-int8")
    stuck = sha256(artifact.folder / artifact.entry)  # this one does not get through
    hub.faults.append(Fault("PUT", f"/large/{stuck}", 503, {"Retry-After": "600"}, times=-1))
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": "hf_owner",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    words = [sys.executable, "-m", "leptonsdk.cli", "push", str(run.folder), "me/toy", "--artifact", "onnxruntime-int8"]
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not hub.storage.uploads:
        assert time.monotonic() < deadline, "nothing was ever uploaded"
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert "leptonsdk.json" not in hub.repository("me/toy").files, "the repository is as it was"
    hub.faults.clear()
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "hf_owner" not in done.stdout + done.stderr
    assert "onnx/model_quantized.onnx" in hub.repository("me/toy").files
    assert set(hub.storage.uploads.values()) == {1}, "nothing was sent twice"
