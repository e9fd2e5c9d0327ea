"""The front of all models: what accuracy is to be had at which rate, drawn, and which model to take for which need."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from . import charts
from .page import DATASETS, accuracy, size
from .wilson import interval

Reports = Sequence[tuple[Path, Mapping[str, Any]]]
"""Each with its place, models/NAME/VERSION/report.json."""

BATCHES = ("1", "64")
SECTION = """
## The front

![Test accuracy against images/s](front.png)

A model is grey where another one is at least as accurate and as fast; a square is int8 or fp16. The bars are 95 %
intervals of the accuracy. Each rate is of the day and the processor on which its model was measured, so compare them
roughly.

## Which one should I take?

For the last tenth of a point this is the highest accuracy that was measured. For the other needs each model will do
whose interval reaches the accuracy of the best that serves the need, and the fastest of these is named.

| need | data set | model | test accuracy | images/s, one alone | in runs of 64 | size |
|---|---|---|---:|---:|---:|---:|
"""


@dataclass(frozen=True)
class Point:
    """One measured model."""

    name: str
    page: str
    dataset: str
    score: Mapping[str, Any]
    """Of the test set: `correct` and `images`."""
    rates: Mapping[str, float]
    """Images/s, by the images in a run."""
    bytes: int

    @property
    def accuracy(self) -> float:
        """The share of test images with the right prediction."""
        return float(self.score["correct"] / self.score["images"])

    @property
    def ends(self) -> tuple[float, float]:
        """The interval of the accuracy."""
        return interval(self.score["correct"], self.score["images"])


def _points(reports: Reports) -> list[list[Point]]:
    """Take the models of each data set out of their reports; those of one's own images have no others beside them."""
    found = {
        name: [
            Point(
                f"{metadata['name']}" + ("" if path.parent.name == "1" else f" version {path.parent.name}"),
                f"{metadata['name']}/{path.parent.name}/README.md",
                name,
                report["test"],
                report["cost"]["images_per_s"],
                report["cost"]["bytes"],
            )
            for path, report in reports
            if (metadata := report["facts"])["dataset"] == name
        ]
        for name in DATASETS
        if name != "folder"
    }
    return [models for models in found.values() if models]


def dominated(point: Point, others: Sequence[Point], batch: str) -> bool:
    """Tell whether another model is at least as accurate and as fast, and better in one."""
    own = (point.accuracy, point.rates[batch])
    return any(
        own != (other.accuracy, other.rates[batch]) and own[0] <= other.accuracy and own[1] <= other.rates[batch]
        for other in others
    )


def describe(reports: Reports) -> str:
    """Write the section of the page, for each need and data set the model to take; nothing without a model."""
    rows = [
        f"| {need} | {DATASETS.get(best.dataset, best.dataset)} | [`{best.name}`]({best.page}) "
        f"| {accuracy(best.score)} "
        f"| {best.rates['1']:,.0f} | {best.rates['64']:,.0f} | {size(best.bytes)} |\n"
        for need, serves, close in NEEDS
        for models in _points(reports)
        if (best := choose(models, serves, close=close))
    ]
    return "".join([SECTION, *rows]) if rows else ""


def choose(models: Sequence[Point], serves: Callable[[Point, float], bool], *, close: bool) -> Point | None:
    """Choose the most accurate model of those that serve a need; if close ones will do, the fastest of these."""
    best_of_all = max(point.accuracy for point in models)
    able = [point for point in models if serves(point, best_of_all)]
    best = max((point.accuracy for point in able), default=1.0)
    able = [point for point in able if (point.ends[1] if close else point.accuracy) >= best]
    return max(able, key=lambda point: point.rates["64"], default=None)


NEEDS: tuple[tuple[str, Callable[[Point, float], bool], bool], ...] = (
    ("the last tenth of a point", lambda _, __: True, False),
    ("a lone request under 1 ms", lambda point, _: point.rates["1"] >= 1_000, True),
    ("5,000 images/s and more", lambda point, _: point.rates["64"] >= 5_000, True),
    (
        "under 1 MB, within 1 point of the best",
        lambda point, best: point.bytes < 1e6 and point.accuracy > best - 0.01,
        True,
    ),
)


def draw(reports: Reports) -> bytes:
    """Draw accuracy with its interval against images/s: a row of plots for each data set, a column for each batch."""
    found = _points(reports)
    with charts.drawing((11.0, 3.8 * max(1, len(found)))) as (figure, png):
        grid = figure.subplots(len(found), len(BATCHES), squeeze=False, sharey="row") if found else ()
        for row, models in zip(grid, found, strict=True):
            for axes, batch in zip(row, BATCHES, strict=True):
                _draw_front(axes, models, batch)
                runs = "one image alone" if batch == "1" else f"runs of {batch}"
                axes.set_title(f"{DATASETS.get(models[0].dataset, models[0].dataset)}, {runs}")
            row[0].set_ylabel("test accuracy")
    return png.getvalue()


def _draw_front(axes: Axes, models: Sequence[Point], batch: str) -> None:
    """Draw the models of one data set at the rates of one batch; names stand by turns above and below their marks."""
    for place, point in enumerate(sorted(models, key=lambda point: point.rates[batch])):
        above = place % 2 == 0
        grey = dominated(point, models, batch)
        colour = charts.GREY if grey else charts.BLUE
        (low, high), rate = point.ends, point.rates[batch]
        reach = [[point.accuracy - low], [high - point.accuracy]]
        mark = "s" if point.name.endswith(("-int8", "-fp16")) else "o"
        alpha = 0.45 if grey else 1
        axes.errorbar([rate], [point.accuracy], reach, fmt=mark, color=colour, elinewidth=1, alpha=alpha)
        axes.annotate(
            point.name,
            (rate, high if above else low),
            (0, 3 if above else -3),
            textcoords="offset points",
            ha="right" if grey else "left",
            va="bottom" if above else "top",
            color=colour,
            fontsize=7.5,
        )
    axes.set_xlabel("images/s")
    axes.set_xscale("log")
    axes.margins(x=0.2)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter(charts.whole_numbers())
    axes.xaxis.set_minor_locator(NullLocator())
    least, most = min(point.ends[0] for point in models), max(point.ends[1] for point in models)
    room = least - 0.15 * (1 - least), most + 0.15 * (1 - most)  # for the names
    charts.scale_accuracy(axes, "y", *room, near=most >= charts.NEAR_ONE)
