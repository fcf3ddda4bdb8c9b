"""``python-docstrings``: a real retrieval set that every Python installation carries.

The standard library holds thousands of functions, methods and classes with docstrings. A docstring's first sentence is the
query, the rest of it the passage to find. Nothing is downloaded, and no module is imported: the sources are parsed.
"""

from __future__ import annotations

import ast
import hashlib
import platform
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from leptonsdk.errors import DataError
from leptonsdk.hooks import DatasetProvider

if TYPE_CHECKING:
    from datasets import Dataset

_LEFT_OUT = frozenset({"test", "tests", "idlelib", "site-packages", "dist-packages", "lib2to3", "__pycache__"})
_MIN_QUERY, _MIN_PASSAGE = 20, 60  # characters: shorter ones say too little to be found by
_FIRST_SENTENCE = re.compile(r".+?(?:(?<=[.!?])(?=\s)|(?=\n\s*\n)|\Z)", re.DOTALL)


class PythonDocstrings(DatasetProvider):
    """Splits ``test`` (four fifths) and ``calibration`` (one fifth), parted by a hash of the query."""

    name = "python-docstrings"
    description = "Retrieval: first sentence of a standard-library docstring -> the rest of it."

    def load(self, split: str | None) -> Dataset:
        from datasets import Dataset

        if split not in (None, "test", "calibration"):
            raise DataError(f"no split '{split}'", where=self.name, hint="splits: test, calibration")
        rows: dict[str, dict[str, str]] = {}
        for query, passage in _pairs(Path(sysconfig.get_paths()["stdlib"])):
            wanted = "calibration" if int(hashlib.sha256(query.encode()).hexdigest(), 16) % 5 == 0 else "test"
            # The same text stands in several places: the passage to find must be one.
            if wanted == (split or "test") and query not in rows:
                rows[query] = {"query": query, "passage": passage}
        unique = {row["passage"]: row for row in rows.values()}
        return Dataset.from_list(list(unique.values()))

    def version(self) -> str:
        return f"python {platform.python_version()}"


def _pairs(library: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).with_suffix("").parts
        if _LEFT_OUT.intersection(parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue  # a template or a file for another version
        for node in ast.walk(tree):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                continue
            docstring = ast.get_docstring(node)
            if docstring and (pair := split_docstring(docstring)):
                yield pair


def split_docstring(docstring: str) -> tuple[str, str] | None:
    """(first sentence, the rest), white space folded; None when either says too little."""
    match = _FIRST_SENTENCE.match(docstring.strip())
    if match is None:
        return None
    query = " ".join(match.group().split())
    passage = " ".join(docstring.strip()[match.end() :].split())
    return (query, passage) if len(query) >= _MIN_QUERY and len(passage) >= _MIN_PASSAGE else None
