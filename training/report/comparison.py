"""The page that sets the documents' figures beside ours, and its figure; knows results, and nothing of training."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.ticker import MaxNLocator

from . import charts, page
from .published import PUBLISHED, Published

Run = dict[str, Any]
"""One seed's result, as the JSON file has it: seed, epochs (see `checkpoint.Epoch`), and counts for each set."""

OVERFITTING = {"cifar10-vgg", "cifar10-vgg-bn"}
PLOTS_A_ROW = 3
COLOURS, LINES = (charts.BLUE, charts.GREEN, charts.GREY), ("-", "--", ":")
# Batches of document 003's first printed loss.
FIRST_BATCHES = 2_000

HEAD = """\
# The documents' figures beside ours

Each network was trained by its document's recipe (`training/recipes.py`) from several seeds. Losses are means over an
epoch's training images as they were seen; accuracies were counted by PyTorch in float32 over the whole sets, after the
last epoch, without augmentation. After each stands its 95 % interval (Wilson's), which is of the images alone; what
another seed changes comes on top. "Within" means: between the least and the largest of our seeds.

This page is written by `python -m training.reproduce`; change it there.

![Losses against epochs, of each seed, beside the published ones](losses.png)
"""


def accuracy(run: Run, part: str) -> float:
    """Give the accuracy of a run over ``train``, ``validation`` or ``test``, in percent."""
    return float(100 * run["counts"][part]["correct"] / run["counts"][part]["images"])


def render(results: Mapping[str, Sequence[Run]]) -> str:
    """Write the page for the results of each network, by seed."""
    parts = [HEAD, *(_section(name, runs, PUBLISHED.get(name)) for name, runs in results.items())]
    if {"cifar10-lenet", "cifar10-lenet-bf16"} <= results.keys():
        parts.append(_precisions(results["cifar10-lenet"], results["cifar10-lenet-bf16"]))
    if results.keys() >= OVERFITTING:
        parts.append(
            "## The cure for overfitting\n\nDocument 004 finds that `cifar10-vgg` overfits, and names batch norm and "
            "weight decay as the cure; `cifar10-vgg-bn` has both, and ordinary augmentation (flips, and translation by "
            "4 pixels).\n\n![Train and test accuracy against epochs](overfitting.png)\n"
        )
    return "\n".join(parts)


def _section(name: str, runs: Sequence[Run], published: Published | None) -> str:
    lines = [f"## `{name}`" + (f" (document {published.document})" if published else ""), ""]
    if published and not published.losses:
        published = None  # the network alone is the document's
    heads = ["", *(["published"] if published else []), *(f"seed {run['seed']}" for run in runs)]
    lines += [f"| {' | '.join(heads)} |", "|---" + "|---:" * (len(heads) - 1) + "|"]

    def row(title: str, theirs: str, ours: Sequence[str]) -> None:
        lines.append(f"| {' | '.join([title, *([theirs] if published else []), *ours])} |")

    if published and published.first_loss is not None:
        ours = [f"{run['first_loss']:.4f}" for run in runs]
        row(f"loss, first {FIRST_BATCHES:,} batches", f"{published.first_loss:.3f}", ours)
    given = published.losses if published else {}
    for number in [number for number in _epochs(runs) if number in given] or [len(runs[0]["epochs"])]:
        low, high = given.get(number, (None, None))
        theirs = "-" if low is None else f"{low:.4f}" if low == high else f"{low:.2f} to {high:.2f}"
        row(f"loss, epoch {number}", theirs, [f"{run['epochs'][number - 1]['loss']:.4f}" for run in runs])
    for part in ("train", "validation", "test"):
        share = getattr(published, part, None)
        if part in runs[0]["counts"]:
            theirs = f"{share:.2f} %" if share else "-"
            row(f"{part} accuracy", theirs, [page.accuracy(run["counts"][part]) for run in runs])
    lines += ["", *_sentences(runs, published), ""]
    return "\n".join(lines)


def _sentences(runs: Sequence[Run], published: Published | None) -> list[str]:
    tests = [accuracy(run, "test") for run in runs]
    sentences = []
    if len(runs) > 1:
        spread = (
            f", standard deviation {statistics.stdev(tests):.2f}" if len(runs) > 2 else ""
        )  # of two it is no figure
        sentences.append(
            f"Test accuracy over {len(runs)} seeds: mean {statistics.mean(tests):.2f} %, from {min(tests):.2f} to "
            f"{max(tests):.2f} %{spread}."
        )
    for part in ("test", "train"):
        given = getattr(published, part, None)
        if given:
            ours = [accuracy(run, part) for run in runs]
            if len(runs) == 1:
                sentences.append(f"The published {part} accuracy is {given:.2f} %, ours {ours[0] - given:+.2f} points.")
            else:
                place = "within" if min(ours) <= given <= max(ours) else "outside of"
                sentences.append(f"The published {part} accuracy of {given:.2f} % lies {place} what our seeds give.")
    if published and len(runs) > 1:
        sentences += _losses_beside(runs, published)
    if len(runs) > 1 and "validation" in runs[0]["counts"]:
        best = min(runs, key=lambda run: run["epochs"][-1]["validation_loss"])
        sentences.append(
            f"The validation images choose seed {best['seed']}, which has the least loss on them; the test set has no "
            f"part in that choice."
        )
    return sentences


def _precisions(fp32: Sequence[Run], bf16: Sequence[Run]) -> str:
    """Say what training in bfloat16 changes, beside what another seed changes."""
    exact, rough = ([accuracy(run, "test") for run in runs] for runs in (fp32, bf16))
    losses = [statistics.mean(run["epochs"][-1]["loss"] for run in runs) for runs in (fp32, bf16)]
    return (
        "## Trained in bfloat16\n\n`cifar10-lenet-bf16` is `cifar10-lenet` under autocast to bfloat16, as the large "
        f"networks are trained. Test accuracy: mean {statistics.mean(rough):.2f} % ({min(rough):.2f} to "
        f"{max(rough):.2f}), in float32 {statistics.mean(exact):.2f} % ({min(exact):.2f} to {max(exact):.2f}); mean "
        f"loss of the last epoch {losses[1]:.4f}, in float32 {losses[0]:.4f}.\n"
    )


def _losses_beside(runs: Sequence[Run], published: Published) -> list[str]:
    """Say of each published loss that ours lie around it, or where it lies outside of them."""
    compared = {
        f"epoch {epoch}": (published.losses[epoch], [run["epochs"][epoch - 1]["loss"] for run in runs])
        for epoch in _epochs(runs)
        if epoch in published.losses
    }
    if published.first_loss is not None:
        first = (published.first_loss, published.first_loss)
        compared[f"the first {FIRST_BATCHES:,} batches"] = (first, [run["first_loss"] for run in runs])
    outside = [
        f"The published loss of {place} lies outside of what our seeds give ({min(ours):.4f} to {max(ours):.4f})."
        for place, ((low, high), ours) in compared.items()
        if max(ours) < low or min(ours) > high
    ]
    others = len(compared) - len(outside)
    if others:
        outside.append(f"{'The other' if outside else 'All'} {others} published losses lie within.")
    return outside


def _epochs(runs: Sequence[Run]) -> range:
    return range(1, 1 + len(runs[0]["epochs"]))


def draw(results: Mapping[str, Sequence[Run]]) -> dict[str, bytes]:
    """Draw the figures of the page, by file name."""
    figures = {"losses.png": draw_losses(results)}
    if results.keys() >= OVERFITTING:
        figures["overfitting.png"] = draw_overfitting({name: results[name][0] for name in sorted(OVERFITTING)})
    return figures


def draw_losses(results: Mapping[str, Sequence[Run]]) -> bytes:
    """Draw the mean training loss against epochs: a plot for each network, a line for each seed, marks for theirs."""
    rows = -(-len(results) // PLOTS_A_ROW)
    with charts.drawing((10.0, 2.6 * rows)) as (figure, png):
        grid = figure.subplots(rows, PLOTS_A_ROW, squeeze=False).flat
        for (name, runs), axes in zip(results.items(), grid, strict=False):
            known = []
            for run, colour, line in zip(runs, COLOURS, LINES, strict=False):
                losses = [epoch["loss"] for epoch in run["epochs"]]
                axes.plot(_epochs(runs), losses, line, color=colour, label=f"seed {run['seed']}")
                known += losses
            theirs = PUBLISHED[name].losses if name in PUBLISHED else {}
            for epoch, (low, high) in theirs.items():
                label = "published" if epoch == max(theirs) else None
                axes.plot([epoch, epoch], [low, high], "_-", color=charts.ORANGE, markersize=6, label=label)
                known += [low, high]
            axes.set_title(name)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            charts.scale_loss(axes, known)
            axes.legend()
        for axes in grid:  # of the last row, those without a network
            axes.set_axis_off()
        figure.supylabel("cross-entropy (nats)", fontsize=9)
    return png.getvalue()


def draw_overfitting(runs: Mapping[str, Run]) -> bytes:
    """Draw train and test accuracy against epochs of cifar10-vgg and of cifar10-vgg-bn side by side."""
    with charts.drawing((9.0, 3.6)) as (figure, png):
        plots = figure.subplots(1, 2, sharey=True)
        for axes, (name, run) in zip(plots, runs.items(), strict=True):
            parts = (("accuracy", "train, as seen", charts.BLUE), ("test_accuracy", "test", charts.ORANGE))
            for key, label, colour in parts:
                axes.plot(_epochs([run]), [epoch[key] for epoch in run["epochs"]], "o-", color=colour, label=label)
            axes.axhline(accuracy(run, "train") / 100, color=charts.BLUE, linestyle=":", label="train, at the end")
            axes.set_title(name)
            axes.set_xlabel("epoch")
            charts.scale_accuracy(axes, "y", 0.3, 1, near=False)
        plots[0].set_ylabel("accuracy")
        plots[1].legend(loc="lower right")
    return png.getvalue()
