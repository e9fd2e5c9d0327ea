"""The figures of a report, as PNG: the same numbers give the same bytes under the same versions of the libraries.

Colours are those of Okabe and Ito, "Color Universal Design" (2008), which colour-blind readers tell apart; marks and
line styles repeat what they say.
"""

import functools
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager, get_font
from matplotlib.scale import FuncScale
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator, PercentFormatter
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ..calibration import BINS
from .wilson import interval

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
DPI = 120
# Inches.
WIDE, SQUARE, MISTAKE_TALL = (8.0, 3.2), (7.0, 6.2), 1.6
# Above that many classes the cells of a confusion matrix are too small for numbers.
NUMBERED_CLASSES = 20
# Above that many, only some of them are named beside it.
NAMED_CLASSES = 40
# Where a plain axis would press a curve against its end: a best accuracy, or a share of images in the last bin.
NEAR_ONE = 0.9
# Reports round to four digits, so nothing nearer to 1 or 0 than half of the last one is told apart.
LEAST = 5e-5
TICKS = {
    "x": (0, 0.5, 0.9, 0.99, 0.999, 0.9999),
    "y": (0, *(1 - lacking / 10**digits for digits in range(1, 5) for lacking in (7, 5, 3, 2, 1))),
}
MISTAKES_A_ROW, MOST_MISTAKES = 6, 24
FONT = "DejaVu Sans"
STYLE = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.0,
    "text.parse_math": False,  # a class may be called $
}


def curves(history: Sequence[Mapping[str, float | None]]) -> bytes:
    """Draw loss and accuracy against epochs, for the training, validation and test images, where they were measured."""
    with drawing(WIDE) as (figure, png):
        left, right = figure.subplots(1, 2)
        epochs = np.arange(1, len(history) + 1)
        few = len(history) <= 30  # a mark for each of many epochs would hide the line
        marks = {"train": (BLUE, "-", "o"), "validation": (ORANGE, "--", "s"), "test": (GREEN, ":", "^")}
        for axes, metric in ((left, "loss"), (right, "accuracy")):
            known = []
            for part, (colour, line, mark) in marks.items():
                values = [epoch[metric if part == "train" else f"{part}_{metric}"] for epoch in history]
                if any(value is not None for value in values):
                    points = [math.nan if value is None else value for value in values]
                    axes.plot(epochs, points, line, color=colour, marker=mark if few else "", label=part)
                    known += [value for value in values if value is not None]
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            if metric == "loss":
                scale_loss(axes, known)
            else:
                scale_accuracy(axes, "y", min(known), max(known), near=max(known) >= NEAR_ONE)
        left.set_ylabel("cross-entropy (nats)")
        right.set_ylabel("accuracy")
        right.legend()
    return png.getvalue()


def confusion(matrix: NDArray[np.int64], labels: Sequence[str]) -> bytes:
    """Draw how many images of each class (rows) got each prediction (columns): [classes, classes]."""
    count = len(labels)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    with drawing(SQUARE, labels) as (figure, png):
        axes = figure.subplots()
        axes.grid(visible=False)
        # A plain scale would leave all mistakes of a good model white.
        shown = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.4, 0, 1))
        step = 1 if count <= NAMED_CLASSES else -(-count // NAMED_CLASSES)
        named = range(0, count, step)
        size = 9.0 if count <= NUMBERED_CLASSES else 6.0
        names = [_name(labels, place) for place in named]
        upright = count > NUMBERED_CLASSES or any(len(name) * count > 60 for name in names)
        axes.set_xticks(named, names, rotation=90 if upright else 0, fontsize=size)
        axes.set_yticks(named, names, fontsize=size)
        axes.set_xlabel("prediction")
        axes.set_ylabel("true class")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        if count <= NUMBERED_CLASSES:
            for (row, column), images in np.ndenumerate(matrix):
                if images:
                    colour = "white" if shares[row, column] > 0.35 else "black"
                    axes.text(column, row, f"{images:,}", ha="center", va="center", color=colour, fontsize=8)
        ticks = [0, 0.01, 0.1, 0.25, 0.5, 1]
        bar = figure.colorbar(shown, ax=axes, ticks=ticks, shrink=0.8, aspect=30, label="share of the true class")
        bar.ax.yaxis.set_major_formatter(_percent())
        bar.outline.set_visible(False)
    return png.getvalue()


def calibration(calibrations: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Draw accuracy against confidence with its interval, and how many images have which confidence.

    `calibrations` has a name for the legend → `error` and `bins`, as in a report: before and after the temperature.
    """
    with drawing(SQUARE) as (figure, png):
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        last = list(calibrations.values())[-1]["bins"]
        near = last[-1]["images"] >= NEAR_ONE * sum(part["images"] for part in last)
        highest = 0.0
        line = np.linspace(0, 1 - LEAST, 200)
        axes.plot(line, line, "--", color=GREY, linewidth=1, label="perfect")
        marks = [(ORANGE, "s", "-."), (BLUE, "o", "-")][-len(calibrations) :]
        for (name, found), (colour, mark, style_of_line) in zip(calibrations.items(), marks, strict=True):
            parts = [part for part in found["bins"] if part["images"]]
            confidences, accuracies = (np.array([part[key] for part in parts]) for key in ("confidence", "accuracy"))
            ends = np.array([interval(part["accuracy"] * part["images"], part["images"]) for part in parts]).T
            reach = np.abs(ends - accuracies)
            title = f"{name}: calibration error {found['error'] * 100:.2f} %"
            axes.errorbar(confidences, accuracies, reach, fmt=mark, color=colour, label=title, elinewidth=1, capsize=2)
            edges = np.minimum(np.linspace(0, 1, BINS + 1), 1 - LEAST)
            counts = [part["images"] for part in found["bins"]]
            below.stairs(counts, edges, color=colour, linewidth=1.6, linestyle=style_of_line)
            highest = max(highest, confidences.max(), ends[1, -1])
        for sides, direction in ((axes, "y"), (below, "x")):
            scale_accuracy(sides, direction, 0, highest if near else 1, near=near)
        axes.set_ylabel("accuracy")
        axes.legend(loc="lower right" if near else "upper left")
        below.set_xlabel("confidence: probability of the prediction")
        below.set_ylabel("images")
        below.set_yscale("log")
        below.set_ylim(bottom=0.8)
        below.yaxis.set_major_formatter(whole_numbers())
        below.yaxis.minorticks_off()
        figure.align_ylabels()
    return png.getvalue()


def mistakes(
    images: NDArray[np.uint8], truths: NDArray[np.int64], probabilities: NDArray[np.float32], labels: Sequence[str]
) -> bytes:
    """Draw wrongly predicted images [N, H, W, C], each with its prediction, that one's probability, and its true class.

    `truths` is [N], `probabilities` [N, classes].
    """
    rows = max(1, math.ceil(len(images) / MISTAKES_A_ROW))
    with drawing((WIDE[0], MISTAKE_TALL * rows), labels) as (figure, png):
        grid = figure.subplots(rows, MISTAKES_A_ROW, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, image, truth, given in zip(grid.flat, images, truths, probabilities, strict=False):
            axes.imshow(image.squeeze(2) if image.shape[2] == 1 else image, cmap="gray", vmin=0, vmax=255)
            prediction = int(given.argmax())
            axes.set_title(
                f"{_name(labels, prediction)}  {given[prediction] * 100:.1f} %\nis: {_name(labels, int(truth))}",
                fontsize=8,
            )
        if len(images) == 0:
            figure.text(0.5, 0.5, "no mistakes on the test images", ha="center", va="center", color=GREY, fontsize=12)
    return png.getvalue()


@contextmanager
def drawing(inches: tuple[float, float], labels: Sequence[str] = ()) -> Iterator[tuple[Figure, io.BytesIO]]:
    """Give an empty figure; when the block ends, it stands in the buffer as PNG, with no word on what drew it.

    Labels in any script may be drawn for which a font is installed.
    """
    png = io.BytesIO()
    fonts = [font for character in sorted({*"".join(labels)}) if (font := _font(character))]
    # A user's own matplotlibrc is not asked, so that the same numbers look the same everywhere.
    with style.context(["default", STYLE | {"font.family": list(dict.fromkeys([FONT, *fonts]))}]):
        figure = Figure(figsize=inches, dpi=DPI, layout="constrained")
        yield figure, png
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png")
        with Image.open(drawn) as image:
            # 256 colours are enough, and half of the bytes.
            image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(png, "PNG", optimize=True)


def scale_loss(axes: Axes, losses: Sequence[float]) -> None:
    """Give losses a plain axis from zero, or a logarithmic one where most would lie near its end."""
    if min(losses) > max(losses) / 10:
        axes.set_ylim(bottom=0)
        return
    axes.set_yscale("log", nonpositive="clip")
    axes.set_ylim(bottom=max(min(losses), LEAST) / 1.5)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def scale_accuracy(axes: Axes, direction: str, least: float, most: float, *, near: bool) -> None:
    """Give accuracies a percent axis; where they come near 1, the logarithm of what lacks is what is even."""
    axis = axes.yaxis if direction == "y" else axes.xaxis
    limit = axes.set_ylim if direction == "y" else axes.set_xlim
    axis.set_major_formatter(_percent())
    if not near:
        reach = 0.02 * (most - least) or 0.02
        limit(least - reach, most + reach)
        return

    def forward(share: ArrayLike) -> NDArray[np.float64]:
        return -np.log10(np.maximum(1 - np.asarray(share, np.float64), LEAST / 10))

    def backward(value: ArrayLike) -> NDArray[np.float64]:
        return 1 - np.power(10.0, -np.asarray(value, np.float64))

    scale = FuncScale(axis, (forward, backward))
    (axes.set_yscale if direction == "y" else axes.set_xscale)(scale)
    axis.set_major_locator(FixedLocator(TICKS[direction]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{share * 100:g} %"))
    limit(max(0.0, 1 - (1 - least) * 1.1), 1 - max(1 - most, LEAST) / 1.3)


def _name(labels: Sequence[str], place: int) -> str:
    """Give the name of a class, cut where it is long; its number where no font has all its characters."""
    label = labels[place]
    if not all(_font(character) for character in label):
        return f"class {place}"
    return label if len(label) <= 14 else label[:13] + "…"


@functools.cache
def _font(character: str) -> str | None:
    """Find an installed font that has a character; ours first, then by name."""
    entries = sorted(fontManager.ttflist, key=lambda entry: (entry.name != FONT, entry.name, entry.fname))
    return next(
        (
            entry.name
            for entry in entries
            if not entry.name.startswith("Last Resort") and ord(character) in get_font(entry.fname).get_charmap()
        ),
        None,
    )


def whole_numbers() -> FuncFormatter:
    """Write numbers with commas between thousands."""
    return FuncFormatter(lambda value, _: f"{value:,.0f}")


def _percent() -> PercentFormatter:
    """Write shares as percentages; an axis keeps its formatter, so each gets one."""
    return PercentFormatter(1, symbol=" %")
