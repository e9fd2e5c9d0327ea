"""Fair scheduling of calls with many images on one pool of threads.

A call runs in time slices: each lasts TIME_SLICE_S or one image, and the next goes to the end of the pool's queue. So
a call of many images has all threads that are idle, and none that another call waits for any longer than a slice.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future

from ..errors import Overloaded, Stopping

TIME_SLICE_S = 0.001
"""Submitting a slice takes 5 µs where the pool is busy, and 90 where it is idle."""
PACE_ITEMS = 16
"""Over about so many items the pace is averaged."""


class DecodePool:
    """A pool of threads with a bound on the items that wait for it. Thread-safe."""

    def __init__(self, pool: Executor, max_waiting: int) -> None:
        """A call of more than ``max_waiting`` items is accepted when no other waits."""
        self._pool = pool
        self._max_waiting = max_waiting
        self._waiting = 0
        self._item_s = 0.0  # between the ends of two items, of late
        self._last_at = 0.0  # when an item ended, or the first came; 0: none waits
        self._lock = threading.Lock()

    def for_each(
        self, count: int, function: Callable[[int], None], on_done: Callable[[], None], *, is_wanted: Callable[[], bool]
    ) -> None:
        """Calls ``function`` in the pool with each number below ``count``, and then, once, ``on_done``.

        Neither may raise. When the call is not wanted any more, the remaining items are dropped, and ``on_done`` is
        not called. Raises Overloaded or Stopping, and then does nothing.
        """
        with self._lock:
            if self._waiting + count > self._max_waiting and self._waiting:
                ahead = min(self._waiting, self._waiting + count - self._max_waiting)
                wait_s = ahead * self._item_s
                raise Overloaded(
                    f"{self._waiting} images wait to be decoded and {self._max_waiting} may. "
                    f"Try again in {wait_s * 1e3:.0f} ms.",
                    retry_after_s=wait_s,
                    reason="decode_queue",
                )
            self._waiting += count
            self._last_at = self._last_at or time.monotonic()
        try:
            _Job(self._pool, count, function, on_done, is_wanted, self._note_end).submit()
        except RuntimeError:  # the pool has been shut down
            self._release(count)
            raise Stopping("The server is stopping.") from None

    def _release(self, count: int) -> None:
        with self._lock:
            self._waiting -= count
            if not self._waiting:
                self._last_at = 0.0

    def _note_end(self, *, ran: bool) -> None:
        """One item less waits; the pace is learned from those that have run."""
        if ran:
            with self._lock:
                now = time.monotonic()
                took_s, self._last_at = now - self._last_at, now
                self._item_s += (took_s - self._item_s) / PACE_ITEMS if self._item_s else took_s
        self._release(1)


class _Job:
    """The items of one call."""

    def __init__(
        self,
        pool: Executor,
        count: int,
        function: Callable[[int], None],
        on_done: Callable[[], None],
        is_wanted: Callable[[], bool],
        on_end: Callable[..., None],
    ) -> None:
        self._pool = pool
        self._function = function
        self._on_done = on_done
        self._is_wanted = is_wanted
        self._on_end = on_end
        self._queue = deque(range(count))
        self._unfinished = count
        self._lock = threading.Lock()

    def submit(self) -> None:
        """Queues a slice; RuntimeError where the pool has been shut down."""
        self._pool.submit(self._run_slice).add_done_callback(self._on_slice_done)

    def _run_slice(self) -> None:
        """Queues the next slice, which an idle thread begins at once, and then runs this one."""
        if len(self._queue) > 1:
            try:
                self.submit()
            except RuntimeError:  # the pool has been shut down: nothing runs the rest
                self._drop()
                return
        ends = time.monotonic() + TIME_SLICE_S
        while True:
            if not self._is_wanted():
                self._drop()
                return
            try:
                item = self._queue.popleft()
            except IndexError:  # other slices took the rest
                return
            self._function(item)
            self._on_end(ran=True)
            with self._lock:
                self._unfinished -= 1
                last = not self._unfinished
            if last:
                self._on_done()
            if time.monotonic() >= ends and len(self._queue) > 1:
                return

    def _drop(self) -> None:
        while self._queue:
            try:
                self._queue.popleft()
            except IndexError:
                return
            self._on_end(ran=False)

    def _on_slice_done(self, time_slice: "Future[None]") -> None:
        if time_slice.cancelled():
            self._drop()
