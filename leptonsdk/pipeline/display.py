"""What a person sees while a run works: one line per finished piece of work, a bar for the one that runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID


class Display:
    """Shows nothing; the base of what shows something."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.reused: list[str] = []

    @contextmanager
    def work(self, name: str, title: str) -> Iterator[None]:
        """Around a piece of work that is really done."""
        yield
        self.done.append(name)

    def reuse(self, name: str, title: str) -> None:
        """For a piece of work that an earlier run did."""
        self.reused.append(name)

    def progress(self, done: int, total: int, what: str) -> None:
        """The progress callback that the work itself calls."""

    def note(self, message: str) -> None:
        """Something that a person should read."""


class RichDisplay(Display):
    """Shows a run in a terminal (or, piped, as plain lines)."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        self.console = console
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
        )
        self._bar: TaskID | None = None
        self._title = ""

    @contextmanager
    def work(self, name: str, title: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            with self._shown(title), super().work(name, title):
                yield
        except BaseException:
            self.console.print(f"[red]✗[/red] {title}")
            raise
        self.console.print(f"[green]✓[/green] {title} [dim]{time.perf_counter() - start:.1f} s[/dim]")

    @contextmanager
    def _shown(self, title: str) -> Iterator[None]:
        """A bar while the work runs; piped output gets its finished lines only."""
        if not self.console.is_terminal:
            yield
            return
        self._title = title
        with self._bars:
            bar = self._bar = self._bars.add_task(title, total=None)
            try:
                yield
            finally:
                self._bars.remove_task(bar)
                self._bar = None

    def reuse(self, name: str, title: str) -> None:
        super().reuse(name, title)
        self.console.print(f"[dim]· {title} (kept)[/dim]")

    def progress(self, done: int, total: int, what: str) -> None:
        if self._bar is not None:
            self._bars.update(self._bar, completed=done, total=total, description=f"{self._title}: {what}")

    def note(self, message: str) -> None:
        self.console.print(message)
