"""Responses that are given together are sent together."""

import threading
from collections import deque
from types import TracebackType
from typing import Protocol

import structlog

log = structlog.get_logger(__name__)


class Flushable(Protocol):
    """What keeps what it is given until it is flushed."""

    flush_scheduled: bool
    """Whether it is waiting to be flushed; the flush_scope's to set."""

    def flush(self) -> None:
        """Sends it; any thread may ask."""


class FlushScope:
    """A context for threads that answer many calls: what they schedule in it is flushed when they leave it.

    What is scheduled outside of it is flushed at once. A nested scope ends with the outer one, but what was scheduled
    is flushed by the first that ends.
    """

    def __init__(self) -> None:
        self._depths: dict[int, int] = {}
        self._scheduled: deque[Flushable] = deque()

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

    def schedule_flush(self, what: Flushable) -> None:
        """Something was given to this one."""
        if not what.flush_scheduled:
            what.flush_scheduled = True
            self._scheduled.append(what)
        if threading.get_ident() not in self._depths:
            self._flush()

    def _flush(self) -> None:
        flush_scheduled = self._scheduled
        while flush_scheduled:
            try:
                what = flush_scheduled.popleft()
            except IndexError:
                return  # another thread was faster
            what.flush_scheduled = False  # before it is flushed, so that nothing is given to it behind the flush unseen
            try:
                what.flush()
            except Exception:
                # It must not take down the thread that answers all other calls.
                log.exception("sending answers failed")
