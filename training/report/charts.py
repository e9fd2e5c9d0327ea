"""The figures of a report, as PNG: the same numbers give the same bytes under the same versions of the libraries.

Colours are those of Okabe and Ito, "Color Universal Design" (2008), which colour-blind readers tell apart; marks and
line styles repeat what they say.
"""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from warnings import catch_warnings, filterwarnings

import numpy as np
from matplotlib import style
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from PIL import Image

from training.calibration import BINS

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
DPI = 120
# Inches.
WIDE, SQUARE, MISTAKE_TALL = (8.0, 3.2), (7.0, 6.2), 1.6
# Above that many classes the cells of a confusion matrix are too small for numbers.
NUMBERED_CLASSES = 20
# Above that many, only some of them are named beside it.
NAMED_CLASSES = 40
# A bin of fewer images says little: its mark is hollow, and no line leads to it.
FEW_IMAGES = 10
MISTAKES_A_ROW, MOST_MISTAKES = 6, 24
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
    with _drawing(WIDE) as (figure, png):
        left, right = figure.subplots(1, 2)
        epochs = np.arange(1, len(history) + 1)
        few = len(history) <= 30  # a mark for each of many epochs would hide the line
        marks = {"train": (BLUE, "-", "o"), "validation": (ORANGE, "--", "s"), "test": (GREEN, ":", "^")}
        for axes, metric in ((left, "loss"), (right, "accuracy")):
            for part, (colour, line, mark) in marks.items():
                values = [epoch[metric if part == "train" else f"{part}_{metric}"] for epoch in history]
                if any(value is not None for value in values):
                    points = [math.nan if value is None else value for value in values]
                    axes.plot(epochs, points, line, color=colour, marker=mark if few else "", label=part)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        left.set_ylabel("cross-entropy (nats)")
        left.set_ylim(bottom=0)
        right.set_ylabel("accuracy")
        right.yaxis.set_major_formatter(_percent())
        right.legend()
    return png.getvalue()


def confusion(matrix: NDArray[np.int64], labels: Sequence[str]) -> bytes:
    """Draw how many images of each class (rows) got each prediction (columns): [classes, classes]."""
    count = len(labels)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    with _drawing(SQUARE) as (figure, png):
        axes = figure.subplots()
        axes.grid(visible=False)
        # A plain scale would leave all mistakes of a good model white.
        shown = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.4, 0, 1))
        step = 1 if count <= NAMED_CLASSES else -(-count // NAMED_CLASSES)
        named = range(0, count, step)
        size = 9.0 if count <= NUMBERED_CLASSES else 6.0
        names = [_short(labels[place]) for place in named]
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
    """Draw accuracy against confidence, and how many images have which, before and after the temperature.

    `calibrations` has a name for the legend → `error` and `bins`, as in a report.
    """
    with _drawing(SQUARE) as (figure, png):
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        axes.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1, label="perfect")
        marks = [(ORANGE, "s", "-."), (BLUE, "o", "-")][-len(calibrations) :]
        for (name, found), (colour, mark, line) in zip(calibrations.items(), marks, strict=True):
            title = f"{name}: calibration error {found['error'] * 100:.2f} %"
            many: tuple[list[float], list[float]] = ([], [])  # confidences and accuracies
            few: tuple[list[float], list[float]] = ([], [])
            for part in found["bins"]:
                points = many if part["images"] >= FEW_IMAGES else few
                if part["images"]:
                    points[0].append(part["confidence"])
                    points[1].append(part["accuracy"])
            axes.plot(*many, line, marker=mark, color=colour, label=title)
            axes.plot(*few, mark, color=colour, fillstyle="none")
            below.stairs(
                [part["images"] for part in found["bins"]],
                np.linspace(0, 1, BINS + 1),
                color=colour,
                linewidth=1.6,
                linestyle=line,
            )
        axes.set_ylabel("accuracy")
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(_percent())
        axes.legend(loc="lower right")
        below.set_xlabel("confidence: probability of the prediction")
        below.set_xlim(-0.01, 1.01)
        below.xaxis.set_major_formatter(_percent())
        below.set_ylabel("images")
        below.set_yscale("log")
        below.set_ylim(bottom=0.8)
        below.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
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
    with _drawing((WIDE[0], MISTAKE_TALL * rows)) as (figure, png):
        grid = figure.subplots(rows, MISTAKES_A_ROW, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, image, truth, given in zip(grid.flat, images, truths, probabilities, strict=False):
            axes.imshow(image.squeeze(2) if image.shape[2] == 1 else image, cmap="gray", vmin=0, vmax=255)
            prediction = int(given.argmax())
            axes.set_title(
                f"{_short(labels[prediction])}  {given[prediction] * 100:.1f} %\nis: {_short(labels[truth])}",
                fontsize=8,
            )
        if len(images) == 0:
            figure.text(0.5, 0.5, "no mistakes on the test images", ha="center", va="center", color=GREY, fontsize=12)
    return png.getvalue()


@contextmanager
def _drawing(inches: tuple[float, float]) -> Iterator[tuple[Figure, io.BytesIO]]:
    """Give an empty figure; when the block ends, it stands in the buffer as PNG, with no word on what drew it."""
    png = io.BytesIO()
    # A user's own matplotlibrc is not asked, so that the same numbers look the same everywhere.
    with style.context(["default", STYLE]), catch_warnings():
        filterwarnings("ignore", message="Glyph .* missing from font")  # a class in a script that it has not: a box
        figure = Figure(figsize=inches, dpi=DPI, layout="constrained")
        yield figure, png
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png")
        with Image.open(drawn) as image:
            # 256 colours are enough, and half of the bytes.
            image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(png, "PNG", optimize=True)


def _short(label: str) -> str:
    """Cut a long name of a class."""
    return label if len(label) <= 14 else label[:13] + "…"


def _percent() -> PercentFormatter:
    """Write shares as percentages; an axis keeps its formatter, so each gets one."""
    return PercentFormatter(1, symbol=" %")
