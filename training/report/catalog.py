"""`python -m training.report.catalog`: write models/README.md, a table of all models, from their report.json."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..command import RUN, Parser, add_options, exit_status
from ..errors import TrainingError
from ..files import replacing
from ..networks import NETWORKS, count_parameters
from ..recipes import RECIPES
from . import front
from .page import DATASETS, accuracy, percent, size
from .published import PUBLISHED
from .write import read_all

# 141 MB each as fp32: git ignores these files and what is made from them, but not their reports.
NOT_KEPT = ("cifar10-vgg", "cifar10-vgg-bn")

HEAD = """\
# Models

One self-describing file each: preprocessing, softmax, labels, measured accuracy and a probe are inside
(`training/onnx_file.py`). Each name leads to a page with curves, mistakes, calibration and how the model was made, and
a `report.json` beside it has the same for programs. Everything was measured on the file itself with ONNX Runtime on a
CPU, accuracy and calibration error over the whole test set. "Published" is what the source document gives for its own
training.

After an accuracy stands its 95 % interval (Wilson's), for the images are a sample. Where the temperature inside a file
makes the calibration error larger on the test set, the error without it stands behind.

This page is written by `python -m training.report.catalog` from the reports; change it there.

| name | document | data set | precision | parameters | multiply-accumulates | size | test accuracy \
| calibration error | images/s in runs of 64 | published | made by |
|---|---|---|---|---:|---:|---:|---:|---:|---:|---|---|
"""


def render(models_dir: Path) -> str:
    """Write the page for the reports in a folder: our recipes and what was made from them, then all others by name.

    Raises ModelFileError for a report that cannot be read.
    """
    measured: set[str] = set()
    lines: dict[str, list[str]] = {}  # by the name of the fp32 model
    reports = read_all(models_dir)
    for path, report in reports:
        metadata = report["facts"]
        measured.add(metadata["name"])
        lines.setdefault(metadata.get("variant_of", metadata["name"]), []).append(_row(report, path.parent.name))
    ours = [([] if name in measured else [_unbuilt(name)]) + lines.pop(name, []) for name in RECIPES]
    return "".join([HEAD, *(line for part in (*ours, *lines.values()) for line in part), front.describe(reports)])


def _row(report: Mapping[str, Any], version: str) -> str:
    """Write the line of a model that was measured."""
    metadata, cost = report["facts"], report["cost"]
    title = f"`{metadata['name']}`" + (f" version {version}" if version != "1" else "")
    document, published = _source(metadata["network"]) if "recipe" in metadata else ("-", "-")
    before, after = (report["calibration"][key]["error"] for key in ("before", "after"))
    own = metadata["dataset"] == "folder" or "recipe" not in metadata
    not_kept = metadata.get("variant_of", metadata["name"]) in NOT_KEPT
    return _line(
        f"[{title}]({metadata['name']}/{version}/README.md)",
        document,
        DATASETS.get(metadata["dataset"], metadata["dataset"]),
        metadata["precision"],
        f"{cost['parameters']:,}",
        "-" if cost["multiply_accumulates"] is None else f"{cost['multiply_accumulates']:,}",
        size(cost["bytes"]),
        accuracy(report["test"]),
        percent(after) + (f" ({percent(before)} without)" if after > before else ""),
        f"{cost['images_per_s']['64']:,.0f}",
        "-" if own or "variant_of" in metadata else published,
        f"`{report['training']['command']}`" + (" (not kept here)" if not_kept else ""),
    )


def _unbuilt(name: str) -> str:
    """Write the line of a recipe without a report: what it would be, and the command that makes it."""
    recipe = RECIPES[name]
    document, published = _source(recipe.network)
    with torch.device("meta"):  # shapes only
        parameters = count_parameters(NETWORKS[recipe.network].build())
    command = f"`{RUN}.export {name}` (not kept here)"
    known = (f"{parameters:,}", "-", size(parameters * 4), "-", "-", "-")
    return _line(f"`{name}`", document, DATASETS[recipe.dataset], "fp32", *known, published, command)


def _source(network: str) -> tuple[str, str]:
    """Give the document that a network comes from, and the figures that it publishes at its training's end."""
    found = PUBLISHED.get(network)
    if found is None:
        return "ours", "-"
    figures = [f"{found.test:.2f} %"] if found.test else []
    if found.losses:
        epoch, (low, high) = max(found.losses.items())
        figures.append(f"loss {low}" + (f" to {high}" if high > low else "") + f" in epoch {epoch}")
    return found.document, ", ".join(figures) or "-"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"


def main(line: list[str] | None = None) -> int:
    """Run the command; gives the exit status."""
    parser = Parser(
        prog=f"{RUN}.report.catalog",
        description="Write README.md in the models folder from the reports there.",
    )
    add_options(parser, "--models-dir")
    folder: Path = parser.parse_args(line).models_dir
    return exit_status(lambda: write(folder), "the page is as it was")


def write(folder: Path) -> None:
    """Write the page and its figure into the models folder; raises TrainingError where there is none."""
    if not folder.is_dir():
        raise TrainingError(f"there is no folder {folder.absolute()}; name another with --models-dir")
    page, figure = render(folder).encode(), front.draw(read_all(folder))
    for name, content in (("README.md", page), ("front.png", figure)):
        with replacing(folder / name) as temporary:
            temporary.write_bytes(content)


if __name__ == "__main__":
    sys.exit(main())
