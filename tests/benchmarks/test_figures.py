"""Medians, ratios, targets and turns."""

from collections.abc import Callable

import pytest

from benchmarks.bench import interleave
from benchmarks.samples import Figures, Spread, better, latencies
from benchmarks.section import Line, plain, spread


def test_ratios_within_each_round() -> None:
    """A round in which everything is slow changes nothing."""
    assert (Spread((10.0, 5.0, 20.0)) / Spread((20.0, 10.0, 40.0))).values == (0.5, 0.5, 0.5)
    assert (Spread((3.0, 4.0)) - Spread((1.0, 5.0))).values == (2.0, -1.0)
    assert better([Spread((1.0, 4.0)), Spread((2.0, 3.0))]).values == (2.0, 4.0)


def test_percentiles_by_nearest_rank() -> None:
    """A percentile is the value of the nearest rank."""
    figures = latencies([float(n) for n in range(100, 0, -1)])
    assert figures == {"mean_us": 50.5, "p50_us": 50.5, "p95_us": 95.0, "p99_us": 99.0}


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (Line("a", Spread((0.9, 0.7, 0.8)), at_least=0.8), (True, "≥ 0.80", "0.80 (0.70 to 0.90)")),
        (Line("a", Spread((0.79,)), at_least=0.8), (False, "≥ 0.80", "0.79")),
        (Line("a", Spread((119.0,)), "µs", at_most=120), (True, "≤ 120 µs", "119 µs")),
        (Line("a", Spread((1.0, 3.0)), "s"), (None, "", "2.00 s (1.00 to 3.00)")),
    ],
    ids=["at least, met", "at least, missed", "at most", "no target"],
)
def test_targets_by_the_median(line: Line, shown: tuple[bool | None, str, str]) -> None:
    """The median of the rounds meets the target or does not."""
    assert (line.met, line.target, line.measured) == shown


def test_figures_for_people() -> None:
    """A figure is shown with three digits that matter, a spread as half its range."""
    figures = {41_234.5: "41,234", 12.34: "12.3", 0.876: "0.88", 0.03123: "0.031", 0.0: "0.00"}
    assert {value: plain(value) for value in figures} == figures
    assert spread(Spread((90.0, 100.0, 120.0))) == "100 ± 15 %"


def test_interleaving_reverses_every_second_round() -> None:
    """Measurements take turns, and every second round goes backwards."""
    order: list[str] = []
    notes: list[str] = []

    def measurement(name: str) -> Callable[[], Figures]:
        def take() -> Figures:
            order.append(name)
            return {"count": float(len(order))}

        return take

    figures = interleave({"a": measurement("a"), "b": measurement("b")}, 3, notes.append)
    assert "".join(order) == "abbaab"
    assert figures["a"]["count"].values == (1.0, 4.0, 5.0)
    assert notes[0] == "round 1 of 3: a"
