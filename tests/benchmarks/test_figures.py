"""Medians, ratios, targets and turns."""

from collections.abc import Callable

import pytest

from benchmarks.interleave import interleave
from benchmarks.samples import Figures, Spread, better, latencies
from benchmarks.section import Line, plain, spread


def test_ratios_are_taken_within_each_round() -> None:
    """A round in which everything is slow changes nothing."""
    assert (Spread((10.0, 5.0, 20.0)) / Spread((20.0, 10.0, 40.0))).values == (0.5, 0.5, 0.5)
    assert (Spread((3.0, 4.0)) - Spread((1.0, 5.0))).values == (2.0, -1.0)
    assert better([Spread((1.0, 4.0)), Spread((2.0, 3.0))]).values == (2.0, 4.0)


def test_percentiles_are_of_the_nearest_rank() -> None:
    figures = latencies([float(n) for n in range(100, 0, -1)])
    assert figures == {"mean_us": 50.5, "p50_us": 50.5, "p95_us": 95.0, "p99_us": 99.0}


@pytest.mark.parametrize(
    ("line", "met", "target", "measured"),
    [
        (Line("a", Spread((0.9, 0.7, 0.8)), at_least=0.8), True, "≥ 0.80", "0.80 (0.70 to 0.90)"),
        (Line("a", Spread((0.79,)), at_least=0.8), False, "≥ 0.80", "0.79"),
        (Line("a", Spread((119.0,)), "µs", at_most=120), True, "≤ 120 µs", "119 µs"),
        (Line("a", Spread((1.0, 3.0)), "s"), None, "", "2.00 s (1.00 to 3.00)"),
    ],
)
def test_the_median_meets_the_target_or_not(line: Line, met: bool | None, target: str, measured: str) -> None:
    assert (line.met, line.target, line.measured) == (met, target, measured)


def test_figures_are_written_for_people() -> None:
    figures = {41_234.5: "41,234", 12.34: "12.3", 0.876: "0.88", 0.03123: "0.031", 0.0: "0.00"}
    assert {value: plain(value) for value in figures} == figures
    assert spread(Spread((90.0, 100.0, 120.0))) == "100 ± 15 %"


def test_measurements_take_turns_and_every_second_round_goes_backwards() -> None:
    taken: list[str] = []
    notes: list[str] = []

    def measurement(name: str) -> Callable[[], Figures]:
        def take() -> Figures:
            taken.append(name)
            return {"count": float(len(taken))}

        return take

    figures = interleave({"a": measurement("a"), "b": measurement("b")}, 3, notes.append)
    assert "".join(taken) == "abbaab"
    assert figures["a"]["count"].values == (1.0, 4.0, 5.0)
    assert notes[0] == "round 1 of 3: a"
