"""The values of all metrics at one time: they can be added up, and sent from process to process."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

from .catalog import BY_NAME

Key = tuple[str, tuple[str, ...]]
"""A metric's name, and the values of its labels."""


@dataclass
class Snapshot:
    """Values by metric and labels."""

    values: dict[Key, float] = field(default_factory=dict)
    """Counters and gauges."""
    histograms: dict[Key, list[float]] = field(default_factory=dict)
    """The count of each bucket alone, the last of them without upper bound, and then the sum."""

    def set(self, name: str, value: float, *labels: str) -> None:
        """Sets a counter or a gauge."""
        self.values[name, labels] = value

    def increase(self, name: str, value: float, *labels: str) -> None:
        """Adds to a counter or a gauge."""
        self.values[name, labels] = self.values.get((name, labels), 0) + value

    def add_histogram(self, name: str, counts_and_sum: Iterable[float], *labels: str) -> None:
        """Adds to a histogram."""
        new, old = list(counts_and_sum), self.histograms.get((name, labels))
        self.histograms[name, labels] = new if old is None else [a + b for a, b in zip(old, new, strict=True)]

    def merge(self, other: "Snapshot", *, gauges: bool = True) -> None:
        """Adds another process's values; without ``gauges``, only what must never go back."""
        for (name, labels), value in other.values.items():
            metric = BY_NAME[name]
            if metric.kind == "gauge" and not gauges:
                continue
            if metric.merge == "max":
                self.set(name, max(value, self.values.get((name, labels), value)), *labels)
            else:
                self.increase(name, value, *labels)
        for (name, labels), counts in other.histograms.items():
            self.add_histogram(name, counts, *labels)

    def encode(self) -> list[Any]:
        """As plain values."""
        return [[*map(_flat, self.values.items())], [*map(_flat, self.histograms.items())]]

    @classmethod
    def decode(cls, parts: list[Any]) -> Self:
        """From what ``encode`` wrote."""
        values, histograms = parts
        return cls(
            {(name, tuple(labels)): value for name, labels, value in values},
            {(name, tuple(labels)): value for name, labels, value in histograms},
        )


def _flat(item: tuple[Key, object]) -> tuple[str, tuple[str, ...], object]:
    (name, labels), value = item
    return name, labels, value
