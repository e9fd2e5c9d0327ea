"""`python -m training.catalog`: write models/README.md, a table of the files there, from nothing but their metadata."""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console

from training.errors import TrainingError
from training.files import replacing
from training.networks import NETWORKS, count_parameters
from training.onnx_file import read_metadata
from training.recipes import RECIPES

# Where each network comes from, and the figures that its document publishes.
SOURCES = {
    "mnist-tiny": ("000", "-"),
    "mnist-deep": ("002", "-"),
    "cifar10-tiny": ("003", "loss 0.94 to 1.04 in epochs 4 and 5"),
    "cifar10-lenet": ("004", "63.35 %, loss 0.8776 in epoch 10"),
    "cifar10-cnn": ("001", "-"),
    "cifar10-vgg": ("004", "74.71 %, loss 0.5668 in epoch 10"),
}
OPTIMIZERS = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD"}
# 141 MB as fp32: git ignores this one, so the table says how to make it, whether or not it lies there.
NOT_KEPT = ("cifar10-vgg",)

HEAD = """\
# Models

One self-describing file each: preprocessing, softmax, labels, measured accuracy and a probe are inside
(`training/onnx_file.py`). Test accuracy was measured on the file itself, with ONNX Runtime's CPU provider, over the
whole test set; the loss is the mean over the last epoch of training. "Published" is what the source document gives.

This page is written by `python -m training.catalog` from the files' metadata; change it there.

| name | document | data set | parameters | size | test accuracy | last loss | published | recipe | made by |
|---|---|---|---:|---:|---:|---:|---|---|---|
"""


def render(models_dir: Path) -> str:
    """Write the page for the files in a folder; raises ModelFileError for a file that is not ours."""
    return HEAD + "".join(_row(name, models_dir / name / "1" / "model.onnx") for name in NETWORKS)


def summarise(recipe: Mapping[str, object]) -> str:
    """Put the numbers of a recipe, as `Recipe.numbers` gives them, in one line."""
    parts = [f"{OPTIMIZERS[str(recipe['optimizer'])]} {recipe['learning_rate']}"]
    if recipe["momentum"]:
        parts.append(f"momentum {recipe['momentum']}")
    if recipe["weight_decay"]:
        parts.append(f"weight decay {recipe['weight_decay']}")
    if recipe["cosine"]:
        parts.append("cosine with warm-up" if recipe["warmup"] else "cosine")
    parts += [f"batch {recipe['batch']}", f"{recipe['epochs']} epochs"]
    if recipe["shift_pixels"]:
        parts.append(f"shifts of {recipe['shift_pixels']} pixels")
    if recipe["flip"]:
        parts.append("flips")
    return ", ".join([*parts, f"seed {recipe['seed']}", str(recipe["precision"])])


def _row(name: str, path: Path) -> str:
    document, published = SOURCES[name]
    with torch.device("meta"):  # shapes only
        parameters = count_parameters(NETWORKS[name].build())
    size, accuracy, loss = f"{parameters * 4 / 1e6:.0f} MB", "-", "-"
    recipe: Mapping[str, object] = RECIPES[name].numbers()
    remark = f"`python -m training.export {name}`"
    if path.exists() and name not in NOT_KEPT:
        facts = read_metadata(path)
        recipe = json.loads(facts["recipe"])
        size = f"{path.stat().st_size / 1e6:.2f} MB"
        accuracy = f"{int(facts['test_correct']) / int(facts['test_images']):.2%}".replace("%", " %")
        loss = f"{json.loads(facts['epoch_losses'])[-1]:.4f}"
    else:
        remark += " (not kept here)"
    cells = [f"`{name}`", document, str(recipe["dataset"]), f"{parameters:,}", size, accuracy, loss, published]
    return f"| {' | '.join([*cells, summarise(recipe), remark])} |\n"


def main(arguments: list[str] | None = None) -> int:
    """Run ``python -m training.catalog``; gives the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.catalog", description="Write README.md in the models folder from the files' metadata."
    )
    parser.add_argument("--models-dir", type=Path, default=Path("models"), metavar="DIR", help="default: models")
    folder: Path = parser.parse_args(arguments).models_dir
    try:
        if not folder.is_dir():
            raise TrainingError(f"there is no folder {folder.absolute()}; name another with --models-dir")
        page = render(folder)
        with replacing(folder / "README.md") as temporary:
            temporary.write_text(page, encoding="utf-8")
    except (TrainingError, OSError) as error:
        Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
