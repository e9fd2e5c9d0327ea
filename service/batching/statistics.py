"""What a batcher has done so far, in requests, rows, runs and nanoseconds."""

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ..metrics.counters import DurationHistogram
from .batch import TensorMap
from .totals import Totals

if TYPE_CHECKING:
    from ..metrics.predictions import Predictions

GATHERED: Final = 64
"""Runs whose times are put aside and counted together: after a run, code and data have left the caches."""


@dataclass
class Statistics(Totals):
    """Written by one thread at a time, that which has run a batch, but for ``answered``; read by any."""

    requests: DurationHistogram = field(default_factory=DurationHistogram)
    """From arrival to result, of those that have one."""
    waits: DurationHistogram = field(default_factory=DurationHistogram)
    """From arrival to the last run."""
    run_times: DurationHistogram = field(default_factory=DurationHistogram)
    _spans_ns: deque[tuple[list[int], int, int]] = field(default_factory=deque)
    _runs_ns: deque[int] = field(default_factory=deque)
    _filling: threading.Lock = field(default_factory=threading.Lock)
    answered: int = 0
    """Calls that were answered with a result, which the methods count."""
    predictions: "Predictions | None" = None
    """Of a classifier, where they are counted."""

    def ran(self, requests: int, rows: int, times_ns: tuple[int, int, int, int]) -> None:
        """Counts a run of so many requests: when it began, its rows were joined, had run, and were split."""
        began, joined, ran, split = times_ns
        self.last_run_ms = time.time_ns() // 1_000_000
        self.rows += rows
        self.runs += 1
        self.join.add(joined - began, requests)
        self.run.add(ran - joined, requests)
        self.split.add(split - ran, requests)
        self.run_by_rows[rows].add(ran - joined)
        self._runs_ns.append(ran - joined)

    def completed(self, arrived_ns: list[int], began_ns: int, ended_ns: int) -> None:
        """Counts requests with a result: when each came, and when their last run began and had been split."""
        arrived, count = sum(arrived_ns), len(arrived_ns)
        self.success.add(count * ended_ns - arrived, count)
        self.queue.add(count * began_ns - arrived, count)
        self._spans_ns.append((arrived_ns, began_ns, ended_ns))
        if len(self._spans_ns) >= GATHERED:
            self.fill_histograms()

    def fill_histograms(self) -> None:
        """Counts in the histograms what has been put aside for them; to be called before they are read."""
        with self._filling:
            while self._spans_ns:
                arrived_ns, began_ns, ended_ns = self._spans_ns.popleft()
                self.requests.add_all(arrived_ns, ended_ns)
                self.waits.add_all(arrived_ns, began_ns)
            while self._runs_ns:
                self.run_times.add(self._runs_ns.popleft())

    def predicted(self, outputs: TensorMap) -> None:
        """Counts what a classifier's run predicted, to show drift."""
        if self.predictions is not None:
            self.predictions.add(outputs["probabilities"])

    def failed(self, ns: int) -> None:
        """Counts a request that got an error from the queue or the run, so long after it came."""
        self.fail.add(ns)
