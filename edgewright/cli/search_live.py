"""How a search stands, shown while it runs: a table that stays in place on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.table import Table

from compiler.search.events import Event
from edgewright.cli.interrupt import check
from edgewright.search_progress import SearchState, advance, line, rows


@dataclass
class SearchDisplay:
    """Takes what a search tells: texts (`progress`) and events (`watch`)."""

    console: Console
    state: SearchState = field(default_factory=SearchState)
    text: str = "start"
    live: Live | None = None
    started: float = field(default_factory=time.monotonic)

    def progress(self, message: str) -> None:
        """Show what is being done."""
        check()
        self.text = message
        self._show(message)

    def watch(self, event: Event) -> None:
        """Show what happened."""
        check()
        self.state = advance(self.state, event)
        self._show(line(event))

    def table(self) -> Table:
        """Return how the search stands."""
        shown = Table(box=None, pad_edge=False, show_header=False, title=self.state.model or None)
        shown.add_column(style="bold")
        shown.add_column(overflow="fold")
        for name, value in (*rows(self.state), ("now", self.text)):
            shown.add_row(name, value.replace("[", "\\["))
        return shown

    def _show(self, message: str) -> None:
        if self.live is not None:
            self.live.update(self.table())
            return
        text = f"{time.monotonic() - self.started:7.1f} s  search: {message}"
        self.console.print(text, markup=False, soft_wrap=True)


@contextlib.contextmanager
def searching() -> Iterator[SearchDisplay]:
    """Yield a display on stderr; whatever a model's or an SDK's own code prints meanwhile goes there too."""
    # A copy of the descriptor: an SDK's own may be silenced while it works, the table goes on.
    file = os.fdopen(os.dup(2), "w", encoding="utf-8") if sys.stderr.isatty() else sys.stderr
    display = SearchDisplay(Console(file=file, highlight=False))
    with contextlib.redirect_stdout(sys.stderr):
        if not display.console.is_terminal:
            yield display
            return
        with Live(display.table(), console=display.console, transient=True, redirect_stdout=False) as live:
            display.live = live
            yield display
