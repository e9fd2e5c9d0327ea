"""What a model version has done, as numbers that are added up over files and processes."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Self

DURATIONS: Final = ("success", "fail", "queue", "join", "run", "split")
"""The fields that are durations, in the order in which they are sent."""
PLAIN: Final = 3 + 2 * len(DURATIONS)
"""Numbers that are sent in front of those of each batch size."""


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
class Totals:
    """Requests, rows, runs and nanoseconds.

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

    def merge(self, other: "Totals") -> None:
        """Adds what another file or process has done."""
        self.last_run_ms = max(self.last_run_ms, other.last_run_ms)
        self.rows += other.rows
        self.runs += other.runs
        for name in DURATIONS:
            added = getattr(other, name)
            getattr(self, name).add(added.ns, added.count)
        for rows, duration in other.run_by_rows.copy().items():
            self.run_by_rows[rows].add(duration.ns, duration.count)

    def encode(self) -> list[int]:
        """As plain numbers."""
        numbers = [self.last_run_ms, self.rows, self.runs]
        for name in DURATIONS:
            duration = getattr(self, name)
            numbers += duration.count, duration.ns
        for rows, duration in self.run_by_rows.copy().items():
            numbers += rows, duration.count, duration.ns
        return numbers

    @classmethod
    def decode(cls, numbers: Sequence[int]) -> Self:
        """From what ``encode`` wrote."""
        last_run_ms, rows, runs = numbers[:3]
        result = cls(last_run_ms, rows, runs)
        for place, name in enumerate(DURATIONS):
            setattr(result, name, Duration(*numbers[3 + 2 * place : 5 + 2 * place]))
        for place in range(PLAIN, len(numbers), 3):
            size, count, ns = numbers[place : place + 3]
            result.run_by_rows[size] = Duration(count, ns)
        return result
