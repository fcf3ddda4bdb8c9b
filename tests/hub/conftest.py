"""A small real run, and a Hub on loopback to push it to."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode: the server's modules stand beside the tests
from server import Hub

import leptonsdk as lepton
from leptonsdk.hub.push import Pushed
from leptonsdk.pipeline.run import Run
from leptonsdk.pipeline.store import read_run

TOKEN = "hf_owner"
SOURCE_CARD = "---\nlicense: mit\nlanguage: en\ntags: [toy]\n---\n# Toy\n"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The server. The client is online, logged in nowhere, and keeps its cache and waiting to itself."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # large files as the Hub takes them over plain HTTP
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: None))
    with Hub() as server:
        yield server
    _http.close_session()


@pytest.fixture(scope="session")
def source(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source model, with a card and a licence."""
    folder = tmp_path_factory.mktemp("source") / "toy"
    shutil.copytree(bert_folder, folder)
    (folder / "README.md").write_text(SOURCE_CARD)
    (folder / "LICENSE").write_text("MIT")
    return folder


@pytest.fixture(scope="session")
def data(sentences: list[dict[str, object]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "dev.tsv"
    path.write_text("sentence\tlabel\n" + "".join(f"{row['sentence']}\t{row['label']}\n" for row in sentences))
    return path


@pytest.fixture(scope="session")
def recipe(source: Path, data: Path) -> dict[str, Any]:
    return {
        "version": 1,
        "model": {"id": str(source)},
        "data": {"eval": {"path": str(data)}},
        "steps": [{"rtn": {"bit_width": 8}}],
        "export": [{"onnxruntime": {"precision": "fp32"}}, {"onnxruntime": {"precision": "int8"}}],
        "profile": {"turns": 5, "latency": [{"batch_size": 2, "sequence_length": 8}]},
        "gate": {"accuracy": {"max_drop": 0.5}, "size": {"max_bytes": 10_000_000}},
    }


@pytest.fixture(scope="session")
def run(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A quantized BERT, exported to ONNX in fp32 and in int8; made once, whichever process asks first."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "hub-run" / "toy"
    with FileLock(f"{folder.parent}.lock"):
        if (folder / "report.html").is_file():
            return Run(folder, read_run(folder), worked=False)
        return lepton.compress(recipe, folder)


@pytest.fixture
def push(hub: Hub, run: Run, source: Path) -> Any:
    """Pushes the run to ``me/toy``."""

    def push(repo_id: str = "me/toy", **options: Any) -> Pushed:
        options = {"token": TOKEN, "endpoint": hub.url, "source": source, **options}
        return lepton.push_to_hub(options.pop("run", run), repo_id, **options)

    return push
