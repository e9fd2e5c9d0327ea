"""The values of a supervisor: the sums of its workers' reports, and what it knows of the workers.

What a worker counted stays in the sums when it has ended, however it ended: counters never go back.
"""

import threading
from collections.abc import Callable, Hashable

from .snapshot import Snapshot


class SupervisorMetrics:
    """Adds up what the workers report. Any thread may read the sums."""

    def __init__(self, workers: int) -> None:
        """``workers``: how many there should be."""
        self.deaths = 0
        """Workers that have died."""
        self.count_ready: Callable[[], int] = lambda: 0
        """Counts the workers that serve."""
        self._workers = workers
        self._last: dict[Hashable, Snapshot] = {}
        self._ended = Snapshot()
        self._lock = threading.Lock()

    def receive(self, worker: Hashable, snapshot: Snapshot) -> None:
        """Takes a worker's report."""
        with self._lock:
            self._last[worker] = snapshot

    def end(self, worker: Hashable) -> None:
        """Keeps what the worker counted; it has ended."""
        with self._lock:
            last = self._last.pop(worker, None)
            if last is not None:
                self._ended.merge(last, gauges=False)

    def snapshot(self) -> Snapshot:
        """Reads all values."""
        result = Snapshot()
        with self._lock:
            result.merge(self._ended)
            for snapshot in self._last.values():
                result.merge(snapshot)
        result.set("convserve_workers", self._workers, "wanted")
        result.set("convserve_workers", self.count_ready(), "ready")
        result.set("convserve_worker_deaths_total", self.deaths)
        if ("convserve_ready", ()) not in result.values:
            result.set("convserve_ready", 0)
        return result
