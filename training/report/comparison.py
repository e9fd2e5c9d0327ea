"""The page that sets the documents' figures beside ours, and its figure; knows results, and nothing of training."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from training.report.published import PUBLISHED, Published

Run = dict[str, Any]
"""One seed's result, as the JSON file has it: seed, epochs (see `checkpoint.Epoch`), and counts for each set."""

# Batches of document 003's first printed loss.
FIRST_BATCHES = 2_000

HEAD = """\
# The documents' figures beside ours

Each network was trained by its document's recipe (`training/recipes.py`) from several seeds. Losses are means over an
epoch's training images as they were seen; accuracies were counted by PyTorch in float32 over the whole sets, after the
last epoch, without augmentation. "Within" means: between the least and the largest of our seeds.

This page is written by `python -m training.reproduce`; change it there.
"""


def accuracy(run: Run, part: str) -> float | None:
    """Give the accuracy of a run over ``train``, ``validation`` or ``test``, in percent, or None without images."""
    counts = run["counts"].get(part)
    return None if counts is None else 100 * counts["correct"] / counts["images"]


def render(results: Mapping[str, Sequence[Run]]) -> str:
    """Write the page for the results of each network, by seed."""
    parts = [HEAD]
    for name, runs in results.items():
        published = PUBLISHED.get(name)
        parts.append(_section(name, runs, published))
    if {"cifar10-lenet", "cifar10-lenet-bf16"} <= results.keys():
        parts.append(_precisions(results["cifar10-lenet"], results["cifar10-lenet-bf16"]))
    if {"cifar10-vgg", "cifar10-vgg-bn"} <= results.keys():
        parts.append(
            "## The cure for overfitting\n\nDocument 004 finds that `cifar10-vgg` overfits, and names batch norm and "
            "weight decay as the cure; `cifar10-vgg-bn` has both, and ordinary augmentation (flips, and translation by "
            "4 pixels).\n\n![Train and test accuracy against epochs](overfitting.png)\n"
        )
    return "\n".join(parts)


def _section(name: str, runs: Sequence[Run], published: Published | None) -> str:
    lines = [f"## `{name}`" + (f" (document {published.document})" if published else ""), ""]
    heads = ["", *(["published"] if published else []), *(f"seed {run['seed']}" for run in runs)]
    lines += [f"| {' | '.join(heads)} |", "|---" + "|---:" * (len(heads) - 1) + "|"]

    def row(title: str, theirs: str, ours: Sequence[str]) -> None:
        lines.append(f"| {' | '.join([title, *([theirs] if published else []), *ours])} |")

    if published and published.first_loss is not None:
        ours = [f"{run['first_loss']:.4f}" for run in runs]
        row(f"loss, first {FIRST_BATCHES:,} batches", f"{published.first_loss:.3f}", ours)
    for number in _epochs(runs):
        low, high = (published.losses.get(number) if published else None) or (None, None)
        theirs = "-" if low is None else f"{low:.4f}" if low == high else f"{low:.2f} to {high:.2f}"
        row(f"loss, epoch {number}", theirs, [f"{run['epochs'][number - 1]['loss']:.4f}" for run in runs])
    for part in ("train", "validation", "test"):
        found = [accuracy(run, part) for run in runs]
        given = getattr(published, part, None)
        if None not in found:
            theirs = f"{given:.2f} %" if given else "-"
            row(f"{part} accuracy", theirs, [f"{value:.2f} %" for value in found])
    lines += ["", *_sentences(runs, published), ""]
    return "\n".join(lines)


def _sentences(runs: Sequence[Run], published: Published | None) -> list[str]:
    tests = [value for run in runs if (value := accuracy(run, "test")) is not None]
    sentences = []
    if len(runs) > 1:
        sentences.append(
            f"Test accuracy over {len(runs)} seeds: mean {statistics.mean(tests):.2f} %, from {min(tests):.2f} to "
            f"{max(tests):.2f} %, standard deviation {statistics.stdev(tests):.2f}."
        )
    for part in ("test", "train"):
        given = getattr(published, part, None)
        if given:
            ours = [value for run in runs if (value := accuracy(run, part)) is not None]
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
    exact, rough = ([accuracy(run, "test") or 0.0 for run in runs] for runs in (fp32, bf16))
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


def draw_overfitting(plain: Run, cured: Run) -> Figure:
    """Draw train and test accuracy against epochs of cifar10-vgg and of cifar10-vgg-bn side by side."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, run, title in zip(axes, (plain, cured), ("cifar10-vgg", "cifar10-vgg-bn"), strict=True):
        for key, label, colour in (("accuracy", "train, as seen", "#0072b2"), ("test_accuracy", "test", "#d55e00")):
            values = [100 * epoch[key] for epoch in run["epochs"]]
            axis.plot(_epochs([run]), values, "o-", color=colour, label=label, markersize=4)
        axis.axhline(accuracy(run, "train"), color="#0072b2", linestyle=":", label="train, at the end")
        axis.set(title=title, xlabel="epoch", ylim=(30, 100))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy (%)")
    axes[1].legend(loc="lower right")
    return figure
