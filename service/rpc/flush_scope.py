"""Answers that are given together are sent together."""

import threading
from collections import deque
from types import TracebackType
from typing import Protocol

import structlog

log = structlog.get_logger(__name__)


class Flushable(Protocol):
    """What keeps what it is given until it is flushed."""

    touched: bool
    """Whether it is waiting to be flushed; the gathering's to set."""

    def flush(self) -> None:
        """Sends it; any thread may ask."""


class Gathering:
    """A context for the threads that answer many: what they touch in it is flushed when they leave it.

    What is touched outside of it is flushed at once. One within another ends with the outer one, but for what was
    touched: that is flushed by the first that ends.
    """

    def __init__(self) -> None:
        self._depths: dict[int, int] = {}
        self._touched: deque[Flushable] = deque()

    def __enter__(self) -> None:
        """The thread begins to answer."""
        thread = threading.get_ident()
        self._depths[thread] = self._depths.get(thread, 0) + 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """It has answered all."""
        thread = threading.get_ident()
        depth = self._depths[thread] - 1
        if depth:
            self._depths[thread] = depth
        else:
            del self._depths[thread]
        self._flush()

    def touch(self, what: Flushable) -> None:
        """Something was given to this one."""
        if not what.touched:
            what.touched = True
            self._touched.append(what)
        if threading.get_ident() not in self._depths:
            self._flush()

    def _flush(self) -> None:
        touched = self._touched
        while touched:
            try:
                what = touched.popleft()
            except IndexError:
                return  # another thread was faster
            what.touched = False  # before it is flushed, so that nothing is given to it behind the flush unseen
            try:
                what.flush()
            except Exception:
                # It must not take down the thread that answers everybody else.
                log.exception("sending answers failed")
