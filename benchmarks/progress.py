"""What is being measured now, on standard error, and for how long it has been going on."""

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console


class Progress:
    """One line that is written over on a terminal, and a line for each part elsewhere.

    Written only when there is something new: a display that redraws itself would run while we measure.
    """

    def __init__(self, parts: Sequence[str]) -> None:
        """The parts to come, in order."""
        self._parts = list(parts)
        self._done = 0
        self._part = ""
        self._started = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._width = Console(stderr=True).width - 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._terminal:
            self._write("")

    def begin(self, part: str) -> None:
        """The next part starts."""
        self._done += 1
        self._part = part
        if self._terminal:
            self.note("")
        else:
            print(self._head(), file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """What is being done in it."""
        if self._terminal:
            self._write(f"{self._head()}  {text}")

    def _head(self) -> str:
        seconds = round(time.monotonic() - self._started)
        return f"{seconds // 60:2d}:{seconds % 60:02d}  part {self._done} of {len(self._parts)}: {self._part}"

    def _write(self, line: str) -> None:
        print(f"\r\x1b[K{line[: self._width]}", end="", file=sys.stderr, flush=True)
