"""What a batcher has done so far, in requests, rows, runs and nanoseconds."""

import time
from collections import defaultdict
from dataclasses import dataclass, field


@dataclass
class Duration:
    """How often something was done, and how long it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        """Counts it ``count`` times more."""
        self.count += count
        self.ns += ns


@dataclass
class Statistics:
    """Written by one thread at a time, that which has run a batch; others may read it at any time.

    ``success`` and ``fail`` go from the arrival of a request to its answer; what never reached the
    queue, because it was refused, is in neither.
    """

    last_run_ms: int = 0
    """When the last run ended, in milliseconds since the epoch."""
    rows: int = 0
    """Rows answered."""
    runs: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    join: Duration = field(default_factory=Duration)
    run: Duration = field(default_factory=Duration)
    split: Duration = field(default_factory=Duration)
    run_by_rows: dict[int, Duration] = field(default_factory=lambda: defaultdict(Duration))

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

    def completed(self, requests: int, waited_ns: int, total_ns: int) -> None:
        """Counts requests with a result: how long they waited for their last run, and from arrival to result."""
        self.success.add(total_ns, requests)
        self.queue.add(waited_ns, requests)

    def failed(self, ns: int) -> None:
        """Counts a request that got an error from the queue or the run, so long after it came."""
        self.fail.add(ns)
