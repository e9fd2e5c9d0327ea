"""Figures of repeated measurements: median and range, latencies of many calls."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

Figures = dict[str, float]
"""One measurement: figures by name, the unit in the name."""


@dataclass(frozen=True)
class Spread:
    """The same figure from every round."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    @property
    def lowest(self) -> float:
        """The smallest."""
        return min(self.values)

    @property
    def highest(self) -> float:
        """The largest."""
        return max(self.values)

    def __sub__(self, other: "Spread") -> "Spread":
        return Spread(tuple(mine - theirs for mine, theirs in zip(self.values, other.values, strict=True)))

    def __truediv__(self, other: "Spread") -> "Spread":
        """The ratio within each round: what slows a whole round down cancels out."""
        return Spread(tuple(mine / theirs for mine, theirs in zip(self.values, other.values, strict=True)))

    def scaled(self, factor: float) -> "Spread":
        """Every value times ``factor``."""
        return Spread(tuple(value * factor for value in self.values))


def better(spreads: Sequence[Spread]) -> Spread:
    """The largest value of each round."""
    return Spread(tuple(max(values) for values in zip(*(spread.values for spread in spreads), strict=True)))


def latencies(microseconds: Sequence[float]) -> Figures:
    """Mean, median, 95th and 99th percentile (nearest rank) of the durations of many calls."""
    ordered = sorted(microseconds)
    return {
        "mean_us": statistics.fmean(ordered),
        "p50_us": statistics.median(ordered),
        "p95_us": ordered[-(-len(ordered) * 95 // 100) - 1],
        "p99_us": ordered[-(-len(ordered) * 99 // 100) - 1],
    }
