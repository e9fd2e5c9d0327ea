"""Threads for what takes long and comes in many pieces: the pictures of a call.

A call takes turns: each lasts TURN_S or one piece, and the next goes to the end of the pool's queue. So a call of
many pictures has all threads that are idle, and none that another call waits for any longer than a turn.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future

from service.errors import Overloaded, Stopping

TURN_S = 0.001
"""A hand-over takes 5 µs of a busy pool, and 90 of an idle one."""


class DecodePool:
    """A pool of threads, with a bound on the pieces that wait for it. Any thread may ask."""

    def __init__(self, pool: Executor, max_waiting: int) -> None:
        """A call of more than ``max_waiting`` pieces is taken when no other waits."""
        self._pool = pool
        self._max_waiting = max_waiting
        self._waiting = 0
        self._lock = threading.Lock()

    def spread(
        self, pieces: int, work: Callable[[int], None], done: Callable[[], None], *, is_wanted: Callable[[], bool]
    ) -> None:
        """Has the pool do ``work`` on each piece from 0 on, and then, once, ``done``.

        Neither may raise. Where it is not wanted any more, the rest is left out, and so is ``done``. Raises Overloaded
        or Stopping, and then does nothing.
        """
        with self._lock:
            if self._waiting + pieces > self._max_waiting and self._waiting:
                raise Overloaded(
                    f"{self._waiting} images wait to be decoded and {self._max_waiting} may. Try again later."
                )
            self._waiting += pieces
        try:
            _Job(self._pool, pieces, work, done, is_wanted, self._leave).submit()
        except RuntimeError:  # the pool has been shut down
            self._leave(pieces)
            raise Stopping("The server is stopping.") from None

    def _leave(self, pieces: int) -> None:
        with self._lock:
            self._waiting -= pieces


class _Job:
    """The pieces of one call."""

    def __init__(
        self,
        pool: Executor,
        pieces: int,
        work: Callable[[int], None],
        done: Callable[[], None],
        is_wanted: Callable[[], bool],
        leave: Callable[[int], None],
    ) -> None:
        self._pool = pool
        self._work = work
        self._done = done
        self._is_wanted = is_wanted
        self._leave = leave
        self._left = deque(range(pieces))
        self._undone = pieces
        self._lock = threading.Lock()

    def submit(self) -> None:
        """Queues a turn; RuntimeError where the pool has been shut down."""
        self._pool.submit(self._turn).add_done_callback(self._forget)

    def _turn(self) -> None:
        """Queues the next turn, which an idle thread begins at once, and then works."""
        if len(self._left) > 1:
            try:
                self.submit()
            except RuntimeError:  # the pool has been shut down: what is left is nobody's any more
                self._drop()
                return
        ends = time.monotonic() + TURN_S
        while True:
            if not self._is_wanted():
                self._drop()
                return
            try:
                piece = self._left.popleft()
            except IndexError:  # other turns took the rest
                return
            self._work(piece)
            self._leave(1)
            with self._lock:
                self._undone -= 1
                last = not self._undone
            if last:
                self._done()
            if time.monotonic() >= ends and len(self._left) > 1:
                return

    def _drop(self) -> None:
        while self._left:
            try:
                self._left.popleft()
            except IndexError:
                return
            self._leave(1)

    def _forget(self, turn: "Future[None]") -> None:
        if turn.cancelled():
            self._drop()
