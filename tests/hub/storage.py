"""What the Hub of the tests holds: repositories with commits, branches and pull requests, and large files by their hash."""

from __future__ import annotations

import hashlib
import itertools
import threading
from dataclasses import dataclass, field

LARGE = 4_000  # bytes from which a file is a large one here; the Hub's own limit is 10 MB, and by a file's ending
LARGE_ENDINGS = (".safetensors", ".onnx", ".bin", ".mlpackage")


@dataclass(frozen=True)
class Blob:
    """A file's content: a large one is known by its SHA-256, any other by its name in git."""

    content: bytes
    large: bool

    @property
    def git_id(self) -> str:
        content = self.content
        if self.large:
            content = (
                f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(content)}\n".encode()
            )
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.git_id


@dataclass(frozen=True)
class Commit:
    sha: str
    parent: str | None
    title: str
    files: dict[str, Blob]


@dataclass
class Repository:
    """One repository. ``refs`` holds the branch ``main`` and the pull requests' ``refs/pr/N``."""

    name: str
    private: bool
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def at(self, revision: str) -> Commit | None:
        return self.commits.get(self.refs.get(revision, revision))

    @property
    def head(self) -> Commit:
        return self.commits[self.refs["main"]]

    @property
    def files(self) -> dict[str, bytes]:
        """The main branch, as content by path."""
        return {path: blob.content for path, blob in self.head.files.items()}

    def commit(self, title: str, files: dict[str, Blob], parent: str | None, ref: str = "main") -> Commit:
        sha = hashlib.sha1(f"{title}{parent}{next(_counter)}".encode()).hexdigest()
        self.commits[sha] = Commit(sha, parent, title, files)
        self.refs[ref] = sha
        return self.commits[sha]

    def put(self, path: str, content: bytes) -> Commit:
        """A commit of somebody else's, on the main branch."""
        files = {**self.head.files, path: Blob(content, is_large(path, len(content)))}
        return self.commit(f"change {path}", files, self.head.sha)


@dataclass
class Storage:
    """All of it. ``uploads`` counts how often each large file was received."""

    tokens: dict[str, str] = field(default_factory=lambda: {"hf_owner": "me", "hf_reader": "reader"})
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    parts: dict[tuple[str, int], bytes] = field(default_factory=dict)
    xorbs: dict[str, list[bytes]] = field(default_factory=dict)
    uploads: dict[str, int] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def create(self, name: str, *, private: bool) -> Repository:
        repository = self.repositories[name] = Repository(name, private)
        attributes = Blob(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n", False)
        repository.commit("initial commit", {".gitattributes": attributes}, None)
        return repository

    def receive(self, oid: str, content: bytes) -> bool:
        if hashlib.sha256(content).hexdigest() != oid:
            return False
        self.large[oid] = content
        self.uploads[oid] = self.uploads.get(oid, 0) + 1
        return True


_counter = itertools.count()


def is_large(path: str, size: int) -> bool:
    return size >= LARGE and path.endswith(LARGE_ENDINGS)
