"""Resident memory of this process: now, and at its highest."""

from __future__ import annotations

import contextlib
import gc
import resource
import sys
from pathlib import Path

import psutil


def settled_memory() -> int:
    """Resident bytes now, the high-water mark brought down to it where the system can (Linux)."""
    gc.collect()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return int(psutil.Process().memory_info().rss)


def peak_memory() -> int:
    """Highest resident bytes of this process since `settled_memory`, or since its start where that cannot be reset."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
