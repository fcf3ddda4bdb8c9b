"""The patterns of a backend's `ignore`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    """Whether a module's name is one of the patterns: a name, a glob, or ``re:`` and a regular expression."""
    return any(
        re.search(pattern[3:], name) is not None if pattern.startswith("re:") else fnmatchcase(name, pattern)
        for pattern in patterns
    )
