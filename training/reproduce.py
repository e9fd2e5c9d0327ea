"""`python -m training.reproduce`: train the documents' recipes by several seeds, and set the results beside theirs.

Writes reproduction.json, REPRODUCTION.md and figures into the models folder. Runs that have a finished
checkpoint are only measured, and results of networks that are not named stay as they are.
"""

import argparse
import functools
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from . import checkpoint
from .command import RUN, Parser, add_options, exit_status
from .data import Dataset, default_data_dir, load
from .device import choose_device
from .errors import ModelFileError
from .evaluate import outputs_of_torch
from .export.arguments import positive
from .files import replacing
from .networks import Classifier, Preprocess
from .recipes import RECIPES, Recipe, teacher_of
from .report.comparison import FIRST_BATCHES, Run, accuracy, draw, render
from .report.published import PUBLISHED
from .train import Training, train

# The small ones by three seeds, as the spread of one run is not known otherwise. The two large ones take over half an
# hour each on two cores. They are trained in bfloat16, which no document asks for, so one network is trained both ways.
SEEDS = {
    "cifar10-tiny": (0, 1, 2),
    "cifar10-lenet": (0, 1, 2),
    "cifar10-lenet-bf16": (0, 1, 2),
    "cifar10-vgg": (0,),
    "cifar10-vgg-bn": (0,),
    "mnist": (0, 1, 2),
    "cifar10": (0, 1),
}
COMPARED = RECIPES | {
    "cifar10-lenet-bf16": replace(
        RECIPES["cifar10-lenet"], name="cifar10-lenet-bf16", precision="bf16", channels_last=True
    )
}


def measure(recipe: Recipe, training: Training, data: Dataset) -> Run:
    """Count the right answers of a finished training, in float32."""
    classifier = Classifier(Preprocess(recipe.mean, recipe.std), training.network)
    data = data.hold_out(recipe.validation)
    parts = {
        "train": (data.train_images, data.train_labels),
        "validation": (data.validation_images, data.validation_labels),
        "test": (data.test_images, data.test_labels),
    }
    counts = {
        part: {"correct": outputs_of_torch(classifier, images).count_correct(labels), "images": len(images)}
        for part, (images, labels) in parts.items()
        if len(images)
    }
    return {"seed": recipe.seed, "epochs": training.rounded_history(), "counts": counts}


def first_loss(recipe: Recipe, data: Dataset, args: argparse.Namespace, console: Console) -> float:
    """Give the mean loss of a training's first 2,000 batches: of an epoch over that many batches' images."""
    part = slice(0, FIRST_BATCHES * recipe.batch)
    few = replace(data, train_images=data.train_images[part], train_labels=data.train_labels[part])
    short = replace(recipe, epochs=1)
    path = args.checkpoints_dir / f"{recipe.name}-seed{recipe.seed}-first.pt"
    return train(short, few, choose_device(args.device), path, console).history[0]["loss"]


def main(line: list[str] | None = None) -> int:
    """Run the command; gives the exit status."""
    parser = Parser(
        prog=f"{RUN}.reproduce",
        description="Train the documents' recipes by several seeds, and write a page that sets their numbers beside "
        "ours. What has a finished checkpoint is only measured; what was interrupted goes on.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SEEDS)} (default: all)")
    add_options(parser, "--data-dir", "--models-dir", "--checkpoints-dir", "--device")
    parser.add_argument(
        "--epochs",
        type=positive,
        metavar="N",
        help="train N epochs instead of the document's number, for a trial that replaces no result",
    )
    parser.add_argument("--redraw", action="store_true", help="only write page and figures again from stored results")
    args = parser.parse_args(line)
    for name in args.names:
        if name not in SEEDS:
            parser.error(f"{name!r} is none of {', '.join(SEEDS)}")
    console = Console(highlight=False, soft_wrap=True)
    names = [] if args.redraw else args.names or list(SEEDS)
    work = functools.partial(run_all, names, args, console)
    return exit_status(work, "the same command goes on from the last finished epoch")


def run_all(names: Sequence[str], args: argparse.Namespace, console: Console) -> None:
    """Train and measure each named network by each of its seeds, writing the page after every network."""
    results = _read(args.models_dir / "reproduction.json")
    for name in names:
        recipe = COMPARED[name].with_epochs(args.epochs or COMPARED[name].epochs)
        found = {len(run["epochs"]) for run in results.get(name, ())}
        if args.epochs and found - {recipe.epochs}:
            raise ModelFileError(
                f"{args.models_dir / 'reproduction.json'} has results of {name} over {max(found)} epochs, which those "
                f"over {recipe.epochs} would replace; name another --models-dir for a trial"
            )
        data = load(recipe.dataset, args.data_dir or default_data_dir())
        results[name] = [run_seed(replace(recipe, seed=seed), data, args, console) for seed in SEEDS[name]]
        _write(results, args.models_dir)
    if not names:
        _write(results, args.models_dir)


def run_seed(recipe: Recipe, data: Dataset, args: argparse.Namespace, console: Console) -> Run:
    """Train by one seed, or go on where that was interrupted, and measure."""
    path = checkpoint.path_of(args.checkpoints_dir, recipe)
    teacher = teacher_of(recipe, args.models_dir, args.epochs)
    training = train(recipe, data, choose_device(args.device), path, console, teacher)
    run = measure(recipe, training, data)
    if recipe.name in PUBLISHED and PUBLISHED[recipe.name].first_loss is not None:
        run["first_loss"] = round(first_loss(recipe, data, args, console), 4)
    console.print(f"{recipe.name}, seed {recipe.seed}: test accuracy {accuracy(run, 'test'):.2f} %")
    return run


def _read(path: Path) -> dict[str, list[Run]]:
    try:
        results: dict[str, list[Run]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise ModelFileError(
            f"{path} is not JSON ({error}); remove it, and run this again for every network"
        ) from error
    return results


def _write(results: dict[str, list[Run]], models_dir: Path) -> None:
    results = {name: results[name] for name in SEEDS if name in results}
    contents = draw(results) | {
        "REPRODUCTION.md": render(results).encode(),
        "reproduction.json": (json.dumps(results, indent=1) + "\n").encode(),
    }
    for name, content in contents.items():
        with replacing(models_dir / name) as temporary:
            temporary.write_bytes(content)


if __name__ == "__main__":
    sys.exit(main())
