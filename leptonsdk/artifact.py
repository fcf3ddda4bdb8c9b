"""Artifact: a folder that runs without leptonsdk in its own runtime, plus a manifest (``leptonsdk.json``).

The manifest is what ``lepton evaluate`` reads to know which backend opens the folder, and what verification compares the
files with. It holds no paths of the machine, no tokens and no calibration text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leptonsdk.errors import CheckpointError

MANIFEST = "leptonsdk.json"
MANIFEST_SCHEMA = 1
_OWN, _ZEROS = "manifest_sha256", "0" * 64


@dataclass(frozen=True)
class Artifact:
    """An exported model.

    Attributes:
        folder: Where it stands.
        backend: The backend that opens it.
        precision: What its numbers are (``fp32``, ``int8-dynamic`` …).
        task: The task that it was exported for.
        entry: The file that the runtime opens, relative to the folder (``onnx/model.onnx``).
        details: What the backend needs to open it again, and what it found on export (``parity``), as JSON data.
        files: The files that the model needs at run time, relative to the folder: what its size is counted over. The
            tokenizer and the configs are beside them and are not counted.
    """

    folder: Path
    backend: str
    precision: str
    task: str
    entry: str
    files: tuple[str, ...]
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def bytes_on_disk(self) -> int:
        """Bytes of the files that the model needs at run time."""
        return sum((self.folder / name).stat().st_size for name in self.files)

    def describe(self) -> dict[str, Any]:
        """What a manifest says of it, as JSON data."""
        return {
            "backend": self.backend,
            "precision": self.precision,
            "task": self.task,
            "entry": self.entry,
            "files": list(self.files),
            "details": dict(self.details),
        }

    def write_manifest(self, provenance: Mapping[str, Any] | None = None) -> Path:
        """Write ``leptonsdk.json``: this description, what the caller knows of its making, SHA-256 of every file."""
        manifest = {
            "schema": MANIFEST_SCHEMA,
            "artifact": self.describe(),
            **(provenance or {}),
            "sha256": hash_files(self.folder),
        }
        path = self.folder / MANIFEST
        path.write_bytes(manifest_bytes(manifest))
        return path

    @classmethod
    def open(cls, folder: str | Path) -> Artifact:
        """The artifact in a folder that has a manifest (of several, as a repository may hold them, the first)."""
        described = read_manifest(folder)["artifact"]
        if described is None:
            hint = "load it as a model"
            raise CheckpointError("it holds a checkpoint, no exported artifact", where=str(folder), hint=hint)
        return cls.described(folder, described)

    @classmethod
    def described(cls, folder: str | Path, described: Mapping[str, Any]) -> Artifact:
        """The artifact that a manifest's entry describes (see `describe`)."""
        return cls(
            folder=Path(folder),
            backend=described["backend"],
            precision=described["precision"],
            task=described["task"],
            entry=described["entry"],
            files=tuple(described["files"]),
            details=described["details"],
        )


def manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """A manifest as it is written, with a hash of its own text (zeros standing for it): a changed byte is found in it too."""
    text = json.dumps({**manifest, _OWN: _ZEROS}, indent=2, sort_keys=True) + "\n"
    return text.replace(f'"{_OWN}": "{_ZEROS}"', f'"{_OWN}": "{hashlib.sha256(text.encode()).hexdigest()}"', 1).encode()


def is_as_written(manifest: bytes) -> bool:
    """Whether a manifest's text is the one that its own hash was taken of."""
    found = re.search(rb'"%s": "([0-9a-f]{64})"' % _OWN.encode(), manifest)
    if found is None:
        return False
    text = manifest[: found.start(1)] + _ZEROS.encode() + manifest[found.end(1) :]
    return hashlib.sha256(text).hexdigest() == found[1].decode()


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of an artifact folder, its schema checked."""
    path = Path(folder) / MANIFEST
    try:
        manifest: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"no {MANIFEST} in it", where=str(folder), hint="is this an exported artifact?") from None
    except ValueError as error:
        raise CheckpointError(f"not valid JSON: {error}", where=str(path)) from error
    found = manifest.get("schema") if isinstance(manifest, dict) else None
    if found != MANIFEST_SCHEMA or "artifact" not in manifest:
        raise CheckpointError(f"manifest schema {found!r}; this version reads {MANIFEST_SCHEMA}", where=str(path))
    read: dict[str, Any] = manifest
    return read


def is_artifact(folder: str | Path) -> bool:
    """Whether the folder was written by an export, or is a repository with one."""
    return (Path(folder) / MANIFEST).is_file() and read_manifest(folder)["artifact"] is not None


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder but its manifest, by relative POSIX path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}
