"""What a run's result looks like: a page (``report.html``) and a table in the terminal, both made from ``run.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from leptonsdk.report.terminal import Summary

__all__ = ["REPORT_FILE", "summary", "write_report"]

REPORT_FILE: Final = "report.html"


def write_report(folder: Path, state: Mapping[str, Any]) -> Path:
    """Write ``report.html`` into a run folder: one page that needs no network. See `leptonsdk.report.page`.

    Args:
        folder: The run folder.
        state: ``run.json`` as data.
    """
    from leptonsdk.report import page

    return page.write_report(folder, state)


def summary(state: Mapping[str, Any]) -> Summary:
    """What a run found, to be printed by a rich console. See `leptonsdk.report.terminal`."""
    from leptonsdk.report import terminal

    return terminal.summary(state)
