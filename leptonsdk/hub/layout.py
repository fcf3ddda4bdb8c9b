"""Which files stand where in a repository: a plan of (path, content), nothing is read or sent here.

At the root stands what plain ``from_pretrained`` loads: the checkpoint of the run's last step, or the source's own files where
nothing changed its weights and they are given. Exported artifacts keep the folders that their runtimes' users expect (``onnx/``,
``openvino/``, ``coreml/``). Where two sets bring the same small file (a tokenizer, a config), the first one's counts: they
describe the same model. Two artifacts whose weights want the same name cannot stand together.
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from leptonsdk.artifact import MANIFEST, Artifact, sha256
from leptonsdk.errors import UsageError

CARD = "README.md"
BASE_CARD = "BASE_MODEL_CARD.md"  # the source's own
SIGNATURE = "model.sig"
# Belongs to no manifest: what the Hub, git and the client put beside the files of a repository.
FOREIGN = (".gitattributes", ".gitignore", ".git/*", ".cache/*", "*/.cache/*", "*.lock")
LICENSES = ("LICENSE*", "NOTICE*", "COPYING*")


@dataclass(frozen=True)
class RepoFile:
    """A file of the repository: where it goes, and its content, as a local file or as bytes."""

    path: str
    content: Path | bytes

    @property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    @cached_property
    def sha256(self) -> str:
        """Hexadecimal."""
        if isinstance(self.content, bytes):
            return hashlib.sha256(self.content).hexdigest()
        return sha256(self.content)

    @cached_property
    def git_id(self) -> str:
        """Its name in git, by which the Hub knows what is no large file."""
        content = self.content if isinstance(self.content, bytes) else self.content.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def plan_files(checkpoint: Path | None, source: Sequence[RepoFile], artifacts: Sequence[Artifact]) -> list[RepoFile]:
    """Every file but the card and the manifest, by path.

    Args:
        checkpoint: The folder of the run's last step, or None.
        source: The source model's own files for the root, where there is no checkpoint; and its licence.
        artifacts: The exports to push.

    Raises:
        UsageError: Two artifacts want the same file for their weights.
    """
    planned: dict[str, RepoFile] = {}
    for file in (*(() if checkpoint is None else _files(checkpoint)), *source):
        planned.setdefault(file.path, file)
    owners: dict[str, str] = {}
    for artifact in artifacts:
        name = artifact.folder.name
        for file in _files(artifact.folder):
            if file.path not in artifact.files:
                planned.setdefault(file.path, file)
                continue
            if file.path in owners and planned[file.path].sha256 != file.sha256:
                raise UsageError(
                    f"'{owners[file.path]}' and '{name}' both bring {file.path}",
                    where="push",
                    hint="choose one with --artifact NAME, and give the other a repository of its own",
                )
            planned[file.path] = file
            owners[file.path] = name
    return sorted(planned.values(), key=lambda file: file.path)


def source_files(folder: Path, names: Mapping[str, str], *, weights: bool) -> list[RepoFile]:
    """The source model's files for the root.

    Args:
        folder: Where they stand.
        names: SHA-256 by name, as the run noted them when it read the model.
        weights: All of them; else only the licence and its card, under a name of its own.

    Raises:
        UsageError: They are not the files that the run started from.
    """
    licences = [path.name for pattern in LICENSES for path in folder.glob(pattern) if path.is_file()]
    wanted = [*(names if weights else ()), *licences]
    for name in wanted:
        if name in names and (not (folder / name).is_file() or sha256(folder / name) != names[name]):
            raise UsageError(
                f"{name} is not the file that the run started from", where="push", hint="name the model that it read"
            )
    found = [RepoFile(name, folder / name) for name in dict.fromkeys(wanted)]
    return [*found, *([RepoFile(BASE_CARD, folder / CARD)] if (folder / CARD).is_file() else [])]


def is_foreign(path: str) -> bool:
    """Whether a path is none of a manifest's business."""
    return path in (MANIFEST, SIGNATURE) or any(fnmatch.fnmatch(path, pattern) for pattern in FOREIGN)


def _files(folder: Path) -> list[RepoFile]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    files = (RepoFile(path.relative_to(folder).as_posix(), path) for path in paths)
    return [file for file in files if not is_foreign(file.path) and file.path != CARD]
