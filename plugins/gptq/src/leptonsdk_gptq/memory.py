"""Giving freed memory back to the system."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any


@cache
def _libc() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None


def trim() -> None:
    """Return free pages to the system (glibc; elsewhere nothing).

    Activations of all batches come and go with every layer, and between them stay long-lived integers: glibc keeps the
    holes, which made the peak of one and the same run differ by 250 MB.
    """
    if (libc := _libc()) is not None:
        libc.malloc_trim(0)
