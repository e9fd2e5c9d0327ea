"""Plots of the results, as PNG.

Colours are those of Okabe and Ito, "Color Universal Design" (2008), which colour-blind readers tell
apart; marks repeat what they say.
"""

import io
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmarks.section import Plot

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666")
MARKS = "os^Dvp*"
STYLE: Any = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.0,
}


def draw(plot: Plot) -> bytes:
    """The bytes of a PNG file."""
    picture = io.BytesIO()
    with rc_context(STYLE):
        figure = Figure(figsize=(7.5, 3.8), layout="constrained")
        axes = figure.subplots()
        for number, (name, points) in enumerate(plot.lines.items()):
            xs, ys = zip(*points, strict=True)
            axes.plot(xs, ys, label=name, color=COLOURS[number % len(COLOURS)], marker=MARKS[number % len(MARKS)])
        if plot.log_x:
            axes.set_xscale("log", base=2)
        if plot.log_y:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axes.set_title(plot.title)
        axes.set_xlabel(plot.x)
        axes.set_ylabel(plot.y)
        axes.legend()
        figure.savefig(picture, format="png", dpi=120, metadata={"Software": None})
    return picture.getvalue()
