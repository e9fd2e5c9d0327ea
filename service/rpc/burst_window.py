"""Calls that come close together are settled together, where they are handed over one by one."""

from collections.abc import Callable
from typing import Any, Protocol

from .call import Dispatch

QUIET_TURNS = 16
"""Turns of the event loop without another call that end a burst: 2 µs each, where a call takes grpc.aio 300."""
LONGEST_S = 0.01
"""A burst ends after so long though calls go on coming."""


class Loop(Protocol):
    """What is asked of an event loop."""

    def time(self) -> float:
        """Seconds, on a clock of its own."""

    def call_soon(self, callback: Callable[..., None], *arguments: Any) -> object:
        """Calls back in the next turn."""


class BurstWindow:
    """Settles what calls have put off when the event loop has turned a few times without another.

    grpc.aio hands each call over in a turn of its own, though many wait. Settled one by one they would hardly ever
    share a run, and each run and each answer has the interpreter change threads: twice the processor time.
    """

    def __init__(self, dispatch: Dispatch) -> None:
        """``dispatch`` is called in the event loop's thread."""
        self._dispatch = dispatch
        self._calls = 0
        self._is_open = False
        self._ends = 0.0

    def add(self, loop: Loop) -> None:
        """A call has come; in the event loop's thread."""
        self._calls += 1
        if not self._is_open:
            self._is_open = True
            self._ends = loop.time() + LONGEST_S
            self._look(loop, self._calls, QUIET_TURNS)

    def _look(self, loop: Loop, calls: int, turns: int) -> None:
        """Ends the burst, or looks again in the next turn, and ``turns`` times if there are no more than ``calls``."""
        if calls != self._calls:
            calls, turns = self._calls, QUIET_TURNS
        if turns and loop.time() < self._ends:
            loop.call_soon(self._look, loop, calls, turns - 1)
            return
        self._is_open = False
        self._dispatch()
