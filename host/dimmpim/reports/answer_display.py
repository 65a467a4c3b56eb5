"""Display of a growing answer: text to standard output, progress to standard error."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

import click
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

__all__ = ["AnswerDisplay"]


class AnswerDisplay:
    """Display of text and a progress bar.

    If both go to a terminal, they are one view, replaced by the plain text at the end. Otherwise text goes out at once,
    and the bar appears only where standard error is a terminal.

    Parameters
    ----------
    to_stderr : bool
        Text goes to standard error, too: standard output is for something else.
    """

    def __init__(self, *, to_stderr: bool = False) -> None:
        self.console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("tokens"))
        self._bar = Progress(*columns, TextColumn("{task.fields[cycles]}"), TimeElapsedColumn(), console=self.console)
        self._together = self.console.is_terminal and sys.stdout.isatty()
        self._text, self._to_stderr = "", to_stderr
        self._task = self._bar.add_task("loading the model", total=None, cycles="")
        self._live = Live(
            self._view(), console=self.console, transient=True, redirect_stdout=False, redirect_stderr=False
        )

    def phase(self, description: str, total: int | None = None) -> None:
        """Begin a phase, with its number of tokens."""
        self._bar.update(self._task, description=description, total=total)
        self._refresh()

    def cycles(self, cycles: int | None, seconds: float) -> None:
        """Show the cycles so far, and the seconds that the device took for them; None if it has no time."""
        if cycles is not None:
            rate = cycles / seconds if seconds else 0.0
            self._bar.update(self._task, cycles=f"{cycles:,} cycles, {rate:,.0f}/s")
            self._refresh()

    def token(self, text: str) -> None:
        """Add one more token, and the text that it completed."""
        self._text += text
        self._bar.advance(self._task)
        if self._together:
            self._refresh()
        else:
            click.echo(text, nl=False, err=self._to_stderr)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._live.stop()
        if self._text:
            click.echo(self._text if self._together else "", err=self._to_stderr)

    def _view(self) -> Group:
        return Group(Text(self._text), self._bar) if self._together else Group(self._bar)

    def _refresh(self) -> None:
        if self.console.is_terminal:
            self._live.update(self._view())
