"""What a result depends on, found without opening a model or reading a dataset into memory."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from leptonsdk.artifact import sha256
from leptonsdk.data.spec import DataSpec
from leptonsdk.hooks import Plugins
from leptonsdk.recipe import Plan
from leptonsdk.references import find_local

_MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "1_Pooling/*.json")
# Packages whose version can change a number.
_PACKAGES = (
    "leptonsdk",
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "numpy",
    "safetensors",
    "compressed-tensors",
    "bitsandbytes",
)


def available_threads() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a number."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """What the numbers were measured on, as far as the system tells; no host name."""
    import psutil

    return {
        "processor": _processor(),
        "machine": platform.machine(),
        "cores": available_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def model_fingerprint(plan: Plan) -> dict[str, Any]:
    """The source model's files. A Hub model is known by its commit, asked of the Hub or found in its cache."""
    folder = plan.model.folder
    if folder is None:
        from leptonsdk.checkpoint import download

        folder = download(plan.model.name, plan.recipe.model.revision)
    files = sorted({path for pattern in _MODEL_FILES for path in folder.glob(pattern) if path.is_file()})
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def data_fingerprint(spec: DataSpec | None, plugins: Plugins, base: Path) -> dict[str, Any] | None:
    """A dataset: its specification and its content's state. Local files are hashed, a provider states its version."""
    if spec is None:
        return None
    described: dict[str, Any] = {"spec": spec.model_dump()}
    if spec.path in plugins.names("dataset"):
        described["version"] = plugins.get("dataset", spec.path)().version()
        return described
    path = find_local(spec.path, base)
    if path is not None and path.is_file():
        return described | {"sha256": sha256(path)}
    if path is not None:
        files = sorted(inner for inner in path.rglob("*") if inner.is_file())
        return described | {"sha256": {inner.relative_to(path).as_posix(): sha256(inner) for inner in files}}
    return described | {"commit": _hub_commit(spec)}


def _hub_commit(spec: DataSpec) -> str | None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        return HfApi().dataset_info(spec.path, revision=spec.revision, timeout=10).sha
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError):
        return spec.revision  # offline: what the cache holds is what will be read
