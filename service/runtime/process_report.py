"""What the processes of one port have done and serve, as one: each reports, and reports are added up."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from ..batching.totals import Totals

READY, LOADING, UNAVAILABLE = "READY", "LOADING", "UNAVAILABLE"
SWITCHING = "not all workers serve it yet, or any more"

State = tuple[str, str]
"""One of the three words, and a reason."""


@dataclass
class ProcessReport:
    """Both by name/version."""

    totals: dict[str, Totals] = field(default_factory=dict)
    """Also of versions that are served no more."""
    states: dict[str, State] = field(default_factory=dict)
    """What RepositoryIndex tells."""

    def merge_totals(self, others: Mapping[str, Totals]) -> None:
        """Adds what another process has done."""
        for key, totals in others.items():
            self.totals.setdefault(key, Totals()).merge(totals)

    def encode(self) -> list[Any]:
        """As plain values."""
        return [{key: totals.encode() for key, totals in self.totals.items()}, self.states]

    @classmethod
    def decode(cls, values: list[Any]) -> Self:
        """From what ``encode`` wrote."""
        totals, states = values
        return cls(
            {key: Totals.decode(numbers) for key, numbers in totals.items()},
            {key: (state, reason) for key, (state, reason) in states.items()},
        )


Gather = Callable[[Callable[[ProcessReport], None]], None]
"""Has the reports of all processes added up, and calls back from any thread."""


def merged_states(reports: Iterable[Mapping[str, State]]) -> dict[str, State]:
    """READY is what all processes serve; what some of them serve or open is LOADING, and nothing is left out."""
    listed = list(reports)
    merged: dict[str, State] = {}
    for key in {key for states in listed for key in states}:
        told = [states.get(key, ("", "")) for states in listed]
        words = {word for word, _ in told}
        reason = next((reason for _, reason in told if reason), "")
        if words == {READY}:
            merged[key] = READY, reason
        elif READY in words:
            merged[key] = LOADING, SWITCHING
        else:
            merged[key] = LOADING if LOADING in words else UNAVAILABLE, reason
    return merged
