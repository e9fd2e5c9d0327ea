"""`python -m training.report.catalog`: write models/README.md, a table of all models, from their report.json."""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from training.command import add_options, exit_status
from training.errors import ModelFileError, TrainingError
from training.files import replacing
from training.networks import NETWORKS, count_parameters
from training.recipes import RECIPES
from training.report.page import DATASETS, percent, size

# Where each network comes from, and the figures that its document publishes; those not named here are ours.
SOURCES = {
    "mnist-tiny": ("000", "-"),
    "mnist-deep": ("002", "-"),
    "cifar10-tiny": ("003", "loss 0.94 to 1.04 in epochs 4 and 5"),
    "cifar10-lenet": ("004", "63.35 %, loss 0.8776 in epoch 10"),
    "cifar10-cnn": ("001", "-"),
    "cifar10-vgg": ("004", "74.71 %, loss 0.5668 in epoch 10"),
    "cifar10-vgg-bn": ("004", "-"),
}
# 141 MB each as fp32: git ignores these files and what is made from them, but not their reports.
NOT_KEPT = ("cifar10-vgg", "cifar10-vgg-bn")

HEAD = """\
# Models

One self-describing file each: preprocessing, softmax, labels, measured accuracy and a probe are inside
(`training/onnx_file.py`). Each name leads to a page with curves, mistakes, calibration and how the model was made, and
a `report.json` beside it has the same for programs. Everything was measured on the file itself with ONNX Runtime on a
CPU, accuracy and calibration error over the whole test set. "Published" is what the source document gives for its own
training.

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
    for path in sorted(models_dir.glob("*/*/report.json")):
        report = _read(path)
        metadata = report["facts"]
        measured.add(metadata["name"])
        lines.setdefault(metadata.get("variant_of", metadata["name"]), []).append(_row(report, path.parent.name))
    ours = [([] if name in measured else [_unbuilt(name)]) + lines.pop(name, []) for name in RECIPES]
    return "".join([HEAD, *(line for part in (*ours, *lines.values()) for line in part)])


def _read(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _not_ours(path, str(error)) from error
    if not isinstance(report, dict) or not {"facts", "test", "calibration", "cost", "training"} <= report.keys():
        raise _not_ours(path, "it lacks whole parts")
    return report


def _not_ours(path: Path, why: str) -> ModelFileError:
    name = path.parent.parent.name
    return ModelFileError(f"{path} is no report of ours ({why}); run: python -m training.report {name}")


def _row(report: Mapping[str, Any], version: str) -> str:
    """Write the line of a model that was measured."""
    metadata, cost = report["facts"], report["cost"]
    title = f"`{metadata['name']}`" + (f" version {version}" if version != "1" else "")
    document, published = SOURCES.get(metadata["network"], ("ours" if "recipe" in metadata else "-", "-"))
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
        percent(report["test"]["accuracy"]),
        percent(report["calibration"]["after"]["error"]),
        f"{cost['images_per_s']['64']:,.0f}",
        "-" if own or "variant_of" in metadata else published,
        f"`{report['training']['command']}`" + (" (not kept here)" if not_kept else ""),
    )


def _unbuilt(name: str) -> str:
    """Write the line of a recipe without a report: what it would be, and the command that makes it."""
    recipe = RECIPES[name]
    document, published = SOURCES.get(recipe.network, ("ours", "-"))
    with torch.device("meta"):  # shapes only
        parameters = count_parameters(NETWORKS[recipe.network].build())
    command = f"`python -m training.export {name}` (not kept here)"
    known = (f"{parameters:,}", "-", size(parameters * 4), "-", "-", "-")
    return _line(f"`{name}`", document, DATASETS[recipe.dataset], "fp32", *known, published, command)


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"


def main(line: list[str] | None = None) -> int:
    """Run ``python -m training.report.catalog``; gives the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.report.catalog",
        description="Write README.md in the models folder from the reports there.",
    )
    add_options(parser, "--models-dir")
    folder: Path = parser.parse_args(line).models_dir
    return exit_status(lambda: write(folder), "the page is as it was")


def write(folder: Path) -> None:
    """Write the page into the models folder; raises TrainingError where there is none."""
    if not folder.is_dir():
        raise TrainingError(f"there is no folder {folder.absolute()}; name another with --models-dir")
    page = render(folder)
    with replacing(folder / "README.md") as temporary:
        temporary.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
