"""Progress on stderr: a live bar on a terminal, a line now and then elsewhere."""

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from aios.cli import output

if TYPE_CHECKING:
    from aios.client import Progress

PLAIN_SECONDS = 5.0
"""Between lines where no terminal shows a bar."""


class Bar:
    """One bar whose text, length and detail may change."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = output.console(err=True)
        self._live = self._console.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._task: Any = None
        self._said, self._last = 0.0, ""

    def __enter__(self) -> Self:
        if self._live:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._live:
            self._bar.stop()

    def update(self, text: str, done: float = 0, total: float | None = None, detail: str = "") -> None:
        """Show where things stand. `total` None: unknown."""
        if self._live:
            if self._task is None:
                self._task = self._bar.add_task(text, detail=detail)
            self._bar.update(self._task, description=text, completed=done, total=total, detail=detail)
        elif text != self._last or time.monotonic() - self._said > PLAIN_SECONDS:
            part = f" {done / total:.0%}" if total else ""
            self._console.print(f"{text}{part} {detail}".rstrip())
            self._said, self._last = time.monotonic(), text

    def say(self, text: str) -> None:
        """A line that stays, above the bar."""
        (self._bar.console if self._live else self._console).print(text)


class Transfer(Bar):
    """Of a push or pull."""

    def report(self, progress: "Progress") -> None:
        """Show it; called from the client's own thread."""
        detail = f"{progress.done_files}/{progress.total_files} files, {output.size(progress.total_bytes)}"
        self.update(progress.phase, progress.done_bytes, progress.total_bytes or 1, detail)
