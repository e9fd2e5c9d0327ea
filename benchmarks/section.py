"""A section is what a scenario hands back: figures with their targets, tables, and remarks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.samples import Spread


@dataclass(frozen=True)
class Line:
    """One figure, and what it should be where there is a target."""

    what: str
    value: Spread
    unit: str = ""
    """Empty for a ratio."""
    at_least: float | None = None
    at_most: float | None = None
    because: str = ""
    """The absolute figures that it comes from."""

    @property
    def met(self) -> bool | None:
        """True where the median meets the target; None where there is none."""
        if self.at_least is not None:
            return self.value.median >= self.at_least
        return None if self.at_most is None else self.value.median <= self.at_most

    @property
    def target(self) -> str:
        """As people write it."""
        if self.at_least is not None:
            return f"≥ {plain(self.at_least)} {self.unit}".strip()
        return "" if self.at_most is None else f"≤ {plain(self.at_most)} {self.unit}".strip()

    @property
    def measured(self) -> str:
        """The median, and in brackets the lowest and the highest of the rounds."""
        shown = f"{plain(self.value.median)} {self.unit}".strip()
        if len(self.value.values) == 1:
            return shown
        return f"{shown} ({plain(self.value.lowest)} to {plain(self.value.highest)})"


def ratio(
    what: str, one: Spread, other: Spread, unit: str, *, at_least: float | None = None, at_most: float | None = None
) -> Line:
    """One figure over another of the same unit, and both of them."""
    because = f"{plain(one.median)} to {plain(other.median)} {unit}"
    return Line(what, one / other, at_least=at_least, at_most=at_most, because=because)


@dataclass(frozen=True)
class Table:
    """Cells as people read them; the first column names the row."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """The results of one scenario."""

    name: str
    title: str
    lines: Sequence[Line] = ()
    tables: Sequence[Table] = ()
    remarks: Sequence[str] = ()
    """Sentences: how it was measured, what was skipped and why."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """Everything that was taken, for machines: spreads in mappings."""


def counted(count: int, noun: str) -> str:
    """``1 thread``, ``2 threads``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def plain(value: float) -> str:
    """Three digits that matter, or whole thousands: 0.0312, 0.87, 12.3, 41,200."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 or not value else f"{value:.2g}"


def spread(value: Spread) -> str:
    """The median ± half the range, as a share of the median."""
    if len(value.values) == 1 or not value.median:
        return plain(value.median)
    return f"{plain(value.median)} ± {50 * (value.highest - value.lowest) / abs(value.median):.0f} %"
