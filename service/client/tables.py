"""Tables: with bars and colours on a terminal; anywhere else plain aligned columns that are never cut."""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich import box
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_BAR_CELLS = 16


class Share(float):
    """A number from 0 to 1, written in per cent, on a terminal with a bar beside it."""

    def __str__(self) -> str:
        return f"{float(self):.2%}"


class Figure(float):
    """A number of any size, written with one decimal; NaN stands for one that is not known."""

    def __str__(self) -> str:
        return "-" if math.isnan(self) else f"{float(self):,.1f}"


Cell = str | float
"""Numbers stand on the right."""
Row = Sequence[Cell]
"""As many cells as there are heads; in a shorter row the last cell is a remark, as wide as it likes."""
Group = Sequence[Row]
"""Rows about one thing, which their first cells name."""


class ShowTable(Protocol):
    """Writes a table, as ``Output.table`` does."""

    def __call__(self, heads: Sequence[str], groups: Sequence[Group], *, caption: str = "") -> None:
        """Writes it."""


class Output:
    """Where a command writes: standard output, or standard error."""

    def __init__(self, *, stderr: bool = False) -> None:
        self._console = Console(stderr=stderr, markup=False, emoji=False, highlight=False)

    def line(self, text: str) -> None:
        """Write text as it is, however wide the terminal. Raises BrokenPipeError."""
        self._console.file.write(f"{text}\n")
        self._console.file.flush()

    def json(self, document: dict[str, object]) -> None:
        """Write one JSON document. Raises BrokenPipeError."""
        self.line(json.dumps(document, indent=2, ensure_ascii=False))

    def table(self, heads: Sequence[str], groups: Sequence[Group], *, caption: str = "") -> None:
        """Write a table; the caption is for a terminal only."""
        if self._console.is_terminal:
            mark = "#" if self._console.options.ascii_only else "━"
            table = _drawn(heads, groups, caption, mark, gap=2)
            if self._console.measure(table).maximum >= self._console.width:
                table = _drawn(heads, groups, caption, mark, gap=1)
            self._console.print(table)
        else:
            for line in _plain(heads, groups):
                self.line(line)

    @contextmanager
    def live(self) -> Iterator["ShowTable"]:
        """Give a function that writes a table over the one before; off a terminal below it."""
        if not self._console.is_terminal:
            yield self.table
            return
        with Live(console=self._console, auto_refresh=False) as live:

            def show(heads: Sequence[str], groups: Sequence[Group], *, caption: str = "") -> None:
                live.update(_drawn(heads, groups, caption, "#", gap=1), refresh=True)

            yield show

    def progress(self, title: str, total: int | None, *, in_bytes: bool = False) -> Progress:
        """Make a bar with its one task added, to be used in a ``with`` block; nothing shows off a terminal."""
        progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn() if in_bytes else MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        progress.add_task(title, total=total)
        return progress


def _sample(heads: Sequence[str], groups: Sequence[Group]) -> Row:
    """Give a full row, to tell by its cells what the columns hold."""
    return next((row for group in groups for row in group if len(row) == len(heads)), [""] * len(heads))


def _text(cell: Cell) -> str:
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def _plain(heads: Sequence[str], groups: Sequence[Group]) -> list[str]:
    rows = [heads, *(row for group in groups for row in group)]
    widths = [0] * len(heads)
    for row in rows:
        # a remark has no column to keep to
        for column, cell in enumerate(row if len(row) == len(heads) else row[:-1]):
            widths[column] = max(widths[column], len(_text(cell)))
    right = [isinstance(cell, float | int) for cell in _sample(heads, groups)]
    return [
        "  ".join(
            _text(cell).rjust(width) if to_right and len(row) == len(heads) else _text(cell).ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=False)
        ).rstrip()
        for row in rows
    ]


def _drawn(heads: Sequence[str], groups: Sequence[Group], caption: str, mark: str, gap: int) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,  # it adds one cell between columns
        padding=(0, gap - 1, 0, 0),
        show_edge=False,
        caption=Text(caption) if caption else None,
        caption_justify="left",
    )
    for head, cell in zip(heads, _sample(heads, groups), strict=True):
        table.add_column(Text(head), justify="right" if isinstance(cell, float | int) else "left", overflow="fold")
        if isinstance(cell, Share):
            table.add_column(width=_BAR_CELLS)
    for group in groups:
        for place, row in enumerate(group):
            cells: list[Text] = []
            for cell in row:
                cells.append(Text(_text(cell)))
                if isinstance(cell, Share):
                    cells.append(Text(mark * round(cell * _BAR_CELLS), "green"))
            if len(row) < len(heads):
                cells[-1].stylize("red")
            if place > 0:
                cells[0] = Text()
            table.add_row(*cells, end_section=len(group) > 1 and place == len(group) - 1)
    return table
