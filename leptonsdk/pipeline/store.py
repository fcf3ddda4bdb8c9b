"""The run folder: what is done, under which key, with which files.

A piece of work writes into a folder aside; its files are hashed, the folder is renamed into place, and only then is it
entered in ``run.json``. So a half-written piece is never taken for a whole one, and a key that is entered with intact
files is work that need not be done again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from leptonsdk.artifact import hash_files
from leptonsdk.errors import RunError, UsageError
from leptonsdk.evaluation.memory import peak_memory, settled_memory

RUN_FILE = "run.json"
RUN_SCHEMA = 1
_LOCK = ".lock"
_ASIDE = ".work"


def key_of(**parts: Any) -> str:
    """A hash of everything that can change a result. Parts are JSON data; their order does not matter."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


class RunStore:
    """A run folder, locked while it is open. Use it as a context manager."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.state: dict[str, Any] = {}
        self._lock = FileLock(self.folder / _LOCK)

    def __enter__(self) -> RunStore:
        if self.folder.is_file():
            raise UsageError("there is a file of that name", where=f"--out {self.folder}")
        if self.folder.is_dir() and not (self.folder / RUN_FILE).exists() and not _only_ours(self.folder):
            raise UsageError(
                "it is not empty and holds no run", where=f"--out {self.folder}", hint="name another folder"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RunError(
                "another process works in it", where=str(self.folder), hint="wait for it, or name another"
            ) from None
        self.state = self._read()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def _read(self) -> dict[str, Any]:
        path = self.folder / RUN_FILE
        if not path.exists():
            return {"schema": RUN_SCHEMA, "work": {}}
        state = read_run(self.folder)
        state.setdefault("work", {})
        return state

    def write(self, **changes: Any) -> None:
        """Change ``run.json`` in one go."""
        self.state.update(changes)
        path = self.folder / RUN_FILE
        aside = path.with_suffix(".json.new")
        aside.write_text(json.dumps(self.state, indent=2, default=str) + "\n", encoding="utf-8")
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)

    def scratch(self, key: str) -> Path:
        """A folder for unfinished work under a key, kept until it, or other work, is entered as done."""
        folder = self.folder / _ASIDE / "scratch" / key[:16]
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def finished(self, name: str, key: str) -> dict[str, Any] | None:
        """What a piece of work noted, when it was done under this key and its files are intact; else None."""
        entry = self.state["work"].get(name)
        if entry is None or entry["key"] != key or entry["state"] != "done":
            return None
        if hash_files(self.folder / name) != entry["files"]:
            return None
        noted: dict[str, Any] = entry["noted"]
        return noted

    def do(self, name: str, key: str, work: Callable[[Path], Mapping[str, Any] | None]) -> dict[str, Any]:
        """Do a piece of work, unless it is done.

        Args:
            name: The folder that it fills, relative to the run folder.
            key: See `key_of`.
            work: Fills the folder that it is given, returns what to note (JSON data).

        Returns:
            What it noted, now or then.
        """
        if (noted := self.finished(name, key)) is not None:
            return noted
        aside = self.folder / _ASIDE / name
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        self._enter(name, key, "running", {}, {}, 0.0, 0)
        settled_memory()
        start = time.perf_counter()
        try:
            noted = dict(work(aside) or {})
        except BaseException:
            self._enter(name, key, "failed", {}, {}, time.perf_counter() - start, peak_memory())
            raise
        files = hash_files(aside)
        place = self.folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists():
            old = self.folder / _ASIDE / "old"
            shutil.rmtree(old, ignore_errors=True)
            place.rename(old)
            aside.rename(place)
            shutil.rmtree(old, ignore_errors=True)
        else:
            aside.rename(place)
        self._enter(name, key, "done", noted, files, time.perf_counter() - start, peak_memory())
        shutil.rmtree(self.folder / _ASIDE / "scratch", ignore_errors=True)
        return noted

    def _enter(
        self,
        name: str,
        key: str,
        state: str,
        noted: Mapping[str, Any],
        files: Mapping[str, str],
        seconds: float,
        peak: int,
    ) -> None:
        self.state["work"][name] = {
            "key": key,
            "state": state,
            "seconds": seconds,
            "peak_memory_bytes": peak,
            "noted": dict(noted),
            "files": dict(files),
        }
        self.write()


def read_run(folder: str | Path) -> dict[str, Any]:
    """A run folder's ``run.json``."""
    path = Path(folder) / RUN_FILE
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError("no run in it", where=str(folder)) from None
    except ValueError as error:
        raise RunError(f"not valid JSON: {error}", where=str(path), hint="move it away to start over") from error
    if state.get("schema") != RUN_SCHEMA:
        raise RunError(f"run schema {state.get('schema')!r}; this version reads {RUN_SCHEMA}", where=str(path))
    return state


def _only_ours(folder: Path) -> bool:
    return {path.name for path in folder.iterdir()} <= {_LOCK, _ASIDE, RUN_FILE + ".new"}
