"""The same measurements again and again, taking turns, so that what disturbs the machine disturbs all of them."""

from collections.abc import Callable, Mapping

from benchmarks.samples import Figures, Spread

Results = dict[str, dict[str, Spread]]
"""The figures of each measurement from all rounds."""


def interleave(measurements: Mapping[str, Callable[[], Figures]], rounds: int, note: Callable[[str], None]) -> Results:
    """Takes every measurement once a round, every second round backwards.

    Backwards, because a drift would otherwise always favour the same ones.
    """
    samples: dict[str, list[Figures]] = {name: [] for name in measurements}
    for number in range(rounds):
        names = list(measurements)
        for name in reversed(names) if number % 2 else names:
            note(f"round {number + 1} of {rounds}: {name}")
            samples[name].append(measurements[name]())
    return {
        name: {figure: Spread(tuple(sample[figure] for sample in taken)) for figure in taken[0]}
        for name, taken in samples.items()
    }
