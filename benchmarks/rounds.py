"""The same measurements again and again, taking turns, so that what disturbs the machine disturbs all of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.samples import Figures, Spread

Key = tuple[str, str]
"""What is measured, and how: ``("native", "served")``."""
Taken = dict[Key, dict[str, Spread]]
"""The figures of each measurement from all rounds."""


@dataclass(frozen=True)
class Budget:
    """How much of a load makes one measurement: a time, or a number of one-image requests."""

    seconds: float
    requests: int | None
    """Where given, instead of the time."""

    def count(self, requests_per_s: float, images: int, *, least: int, share: float = 1.0) -> int:
        """How many requests; ``share`` is the part of the budget that this kind of measurement gets."""
        if self.requests is not None:
            return max(least, round(self.requests * share) // images)
        return max(least, round(requests_per_s * self.seconds * share))


def alternate(measurements: Mapping[Key, Callable[[], Figures]], rounds: int, note: Callable[[str], None]) -> Taken:
    """Takes every measurement once a round, every second round backwards.

    Backwards, because a drift would otherwise always favour the same ones.
    """
    samples: dict[Key, list[Figures]] = {key: [] for key in measurements}
    for number in range(rounds):
        keys = list(measurements)
        for key in reversed(keys) if number % 2 else keys:
            note(f"round {number + 1} of {rounds}: {' '.join(key)}")
            samples[key].append(measurements[key]())
    return {
        key: {name: Spread(tuple(sample[name] for sample in taken)) for name in taken[0]}
        for key, taken in samples.items()
    }
