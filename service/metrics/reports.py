"""Workers report their metrics to the supervisor, once a second and at their end; it adds them up.

What a worker counted stays in the sums when it has ended, however it ended: counters never go back.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

from .snapshot import Snapshot

PERIOD_S = 1.0
TIMEOUT_S = 2.0
"""How long the supervisor may take to read a report."""


@contextmanager
def reporting(descriptor: int, source: Callable[[], Snapshot]) -> Iterator[None]:
    """Reports what the source reads from a thread of its own; the last report is made on leaving."""
    stopped = threading.Event()
    with socket.socket(fileno=descriptor) as connection:
        connection.settimeout(TIMEOUT_S)

        def report() -> None:
            with contextlib.suppress(OSError):  # the supervisor has ended, or does not read
                while not stopped.wait(PERIOD_S):
                    connection.sendall(source().encode())
                connection.sendall(source().encode())

        thread = threading.Thread(target=report, name="metrics", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()


class WorkerReports:
    """The last report of each worker, and the sums of those that have ended. Any thread may read the sum."""

    def __init__(self) -> None:
        self._unread: dict[Hashable, bytes] = {}
        self._last: dict[Hashable, Snapshot] = {}
        self._ended = Snapshot()
        self._lock = threading.Lock()

    def receive(self, worker: Hashable, data: bytes) -> None:
        """Takes what has come from a worker; reports end with a line feed. Raises ValueError where it is none."""
        *lines, rest = (self._unread.pop(worker, b"") + data).split(b"\n")
        if lines:
            snapshot = Snapshot.decode(lines[-1])
            with self._lock:
                self._last[worker] = snapshot
        self._unread[worker] = rest

    def end(self, worker: Hashable) -> None:
        """Keeps what the worker counted; it has ended."""
        self._unread.pop(worker, None)
        with self._lock:
            last = self._last.pop(worker, None)
            if last is not None:
                self._ended.merge(last, gauges=False)

    def merged(self) -> Snapshot:
        """Returns the sums of all workers, those that have ended too."""
        result = Snapshot()
        with self._lock:
            result.merge(self._ended)
            for snapshot in self._last.values():
                result.merge(snapshot)
        return result
