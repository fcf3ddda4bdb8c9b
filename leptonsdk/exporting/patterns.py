"""The patterns of a backend's `ignore`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from leptonsdk.errors import UsageError


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    """Whether a module's name is one of the patterns: a name, a glob, or ``re:`` and a regular expression.

    Raises:
        UsageError: What follows ``re:`` is no regular expression.
    """
    for pattern in patterns:
        try:
            if re.search(pattern[3:], name) if pattern.startswith("re:") else fnmatchcase(name, pattern):
                return True
        except re.error as error:
            raise UsageError(f"'{pattern}' is no regular expression: {error}", where="ignore") from error
    return False
