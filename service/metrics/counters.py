"""Counters of the hot path: plain ints and lists, which cost a tenth of a microsecond each.

An addition to an int in a list, a dict or an attribute is not interrupted by another thread under CPython's GIL.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence

NS = 1e9
DURATIONS_NS = tuple(
    round(seconds * NS)
    for seconds in (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
)
"""Upper bounds of the buckets of all durations."""


class DurationHistogram:
    """Durations in nanoseconds, counted by bucket."""

    __slots__ = ("counts", "total_ns")

    def __init__(self) -> None:
        self.counts = [0] * (len(DURATIONS_NS) + 1)
        """Of each bucket alone; the last has no upper bound."""
        self.total_ns = 0

    def add(self, ns: int) -> None:
        """Counts one duration."""
        self.counts[bisect_left(DURATIONS_NS, ns)] += 1
        self.total_ns += ns

    def add_all(self, since_ns: Sequence[int], until_ns: int) -> None:
        """Counts several that began at different times and ended at the same."""
        counts = self.counts
        for began_ns in since_ns:
            counts[bisect_left(DURATIONS_NS, until_ns - began_ns)] += 1
        self.total_ns += len(since_ns) * until_ns - sum(since_ns)


class FailureCounters:
    """What was not answered with a result, in the whole process."""

    def __init__(self) -> None:
        self.calls: dict[tuple[str, str, str], int] = defaultdict(int)
        """Inference calls by model, version and status code."""
        self.refusals: dict[tuple[str, str, str], int] = defaultdict(int)
        """Errors that were sent, of any RPC and of single images, by model, version and reason."""


FAILURES = FailureCounters()
"""Those of this process: errors come from everywhere, and a process has one server."""
