"""The steps from a name to the files in the models folder: train, publish, make variants, report."""

import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console

from .. import checkpoint, fine_tune, onnx_file
from ..command import exit_status, make_console
from ..data import Dataset, default_data_dir, load
from ..data.folder import VALIDATION_FROM, load_folder
from ..data.pixel_cache import PixelCache
from ..device import choose_device
from ..errors import DataError, TrainingError
from ..files import SMALL_FILES, check_place
from ..foreign import steps as foreign
from ..foreign.sources import network_of
from ..foreign.trainable import prepare
from ..lock import hold, refuse_if_held
from ..networks import count_parameters
from ..preprocessing import rule_of
from ..recipes import RECIPES, Recipe, teacher_of
from ..report.measure import parse_metadata
from ..report.wilson import interval
from ..report.write import write
from ..train import begin, train
from . import publish, tables
from .arguments import Arguments, Own
from .renew import renew_all
from .tables import Export, path_of

Variant = Literal["int8", "fp16"]
# Of an accuracy: from about 1,500 test images on it is narrower, wherever it lies.
WIDE_INTERVAL = 0.05
VARIANTS: tuple[Variant, ...] = ("int8", "fp16")


def run(args: Arguments) -> int:
    """Do what a command line asks for; gives the exit status: 0, 1 (a sentence says why), or 130 (interrupted)."""
    console = make_console()
    exports: list[Export] = []

    def work() -> None:
        if args.list:
            console.print(tables.of_networks(args.models_dir))
        if args.renew:
            renew_all(args.models_dir, args.data_dir or default_data_dir(), console)
        if args.foreign is not None:
            name = args.foreign.name
            check_place(args.models_dir / name, SMALL_FILES, "--models-dir")
            with hold(lock_of(args.models_dir, name), name):
                foreign.run(args.foreign, args, console)
        for recipe, read_data in jobs(args, console):
            # One by one, because what was made before a failure is shown too.
            for export in make(recipe, read_data, args, console):
                exports.append(export)  # noqa: PERF402

    status = exit_status(work, "epochs that were finished are kept, and the same command goes on from there")

    def show() -> None:
        if exports:
            console.print(tables.of_exports(exports))

    shown = exit_status(show, "files that were made are kept")
    return status or shown


def jobs(args: Arguments, console: Console) -> Iterator[tuple[Recipe, Callable[[], Dataset]]]:
    """Give each recipe that is asked for, with a function that reads its data; an up-to-date file needs none."""
    if args.own is not None:
        yield own_job(args.own, args, console)
    for name in args.names:
        recipe = customise(RECIPES[name], args)
        yield recipe, functools.cache(functools.partial(load, recipe.dataset, args.data_dir or default_data_dir()))


def own_job(own: Own, args: Arguments, console: Console) -> tuple[Recipe, Callable[[], Dataset]]:
    """Give the recipe for images of one's own, which are read here; and where it starts from weights, begin it."""
    refuse_if_held(lock_of(args.models_dir, own.name), own.name)  # before the images are read
    base, start = _origin(own, args)
    stops_early = base.patience > 0 or start is not None
    data = load_folder(
        own.folder,
        network_of(base).shape,
        console,
        1 if stops_early else VALIDATION_FROM,
        rule_of(base),
        PixelCache(args.checkpoints_dir, args.pixels_in_memory * 2**20),
    )
    if stops_early and not len(data.validation_images):
        raise DataError(
            f"{own.folder} has {len(data.train_images)} images to train with, too few to hold some out of them, by "
            f"which this training stops; add some, or train a network of ours without --start-from"
        )
    recipe = recipe_for(data, base, own.name)
    recipe = customise(recipe if start is None else start.fit(recipe), args)

    def begin_and_read() -> Dataset:
        if start is not None:
            begin(recipe, data, start, checkpoint.path_of(args.checkpoints_dir, recipe))
        return data

    return recipe, begin_and_read


def _origin(own: Own, args: Arguments) -> tuple[Recipe, fine_tune.Start | None]:
    """Give the recipe of the network that is asked for, and the weights that it starts from."""
    if own.library is not None:
        return prepare(own.library)
    if own.start is None:
        return RECIPES[own.network or ""], None
    start = fine_tune.read_start(path_of(args.models_dir, own.start), own.start, own.network)
    return RECIPES[start.network], start


def recipe_for(data: Dataset, recipe: Recipe, name: str) -> Recipe:
    """Give a network's own recipe, made to fit a folder's data set."""
    steps = math.ceil(len(data.train_images) / recipe.batch)
    return dataclasses.replace(
        recipe,
        name=name,
        dataset="folder",
        validation=len(data.validation_images),
        teacher="",  # it knows other classes
        taught_by="",
        views=0,
        distillation_weight=0.0,
        distillation_temperature=0.0,
        ema_decay=min(recipe.ema_decay, round(1 - 1 / steps, 4)),  # over the last epoch at most, however short it is
        hold_out_test_set=True,  # what is seen every epoch is chosen by in the end
        digest=data.digest(),
    )


def customise(recipe: Recipe, args: Arguments) -> Recipe:
    """Give the recipe with the numbers that were asked for; raises TrainingError for what it cannot have."""
    if args.mixup is not None and recipe.views:
        raise TrainingError(f"--mixup does not go with {recipe.name}, which learns stored answers for single images")
    return dataclasses.replace(
        recipe if args.epochs is None else recipe.with_epochs(args.epochs),
        seed=recipe.seed if args.seed is None else args.seed,
        learning_rate=recipe.learning_rate if args.learning_rate is None else args.learning_rate,
        flip=recipe.flip and args.flip,
        mixup=recipe.mixup if args.mixup is None else args.mixup,
    )


def make(recipe: Recipe, read_data: Callable[[], Dataset], args: Arguments, console: Console) -> Iterator[Export]:
    """Bring one network's files into being, unless they are there: fp32, then the variants, which are made from it."""
    fp32 = make_fp32(recipe, read_data, args, console)
    yield fp32
    wanted = [precision for precision in VARIANTS if precision in args.precision]
    if json.loads(fp32.metadata["recipe"]).get("digest") != recipe.digest:
        if wanted:
            raise DataError(
                f"{fp32.path} was made from other images than these, so it cannot be compared with its variants; "
                f"--force makes it anew"
            )
        return
    write_report(fp32, read_data, args, console)
    for precision in VARIANTS:
        path = path_of(args.models_dir, f"{recipe.name}-{precision}")
        if precision in wanted:
            variant = make_variant(precision, fp32, path, read_data, args, console)
            yield variant
            write_report(variant, read_data, args, console)
        elif path.exists() and not is_made_from(onnx_file.read_metadata(path), fp32.metadata):
            console.print(
                f"{path} was made from an earlier {recipe.name}; --precision {precision} makes it anew", soft_wrap=True
            )


def make_fp32(recipe: Recipe, read_data: Callable[[], Dataset], args: Arguments, console: Console) -> Export:
    """Train and publish, unless a file is in place."""
    path = path_of(args.models_dir, recipe.name)
    if path.exists() and not args.force:
        metadata = onnx_file.read_metadata(path)
        different = sorted(recipe.differences(json.loads(metadata["recipe"])))
        if not different:
            return Export(path, metadata, None, "up to date")
        what = ", ".join("images" if key == "digest" else key for key in different)
        console.print(
            f"{recipe.name}: kept, though made by another recipe ({what}); --force replaces it", soft_wrap=True
        )
        return Export(path, metadata, None, "kept")
    started = time.perf_counter()
    device = choose_device(args.device)
    check_places(recipe, path.parent, args.checkpoints_dir)
    with hold(lock_of(args.models_dir, recipe.name), recipe.name):
        data = read_data()
        path_of_checkpoint = checkpoint.path_of(args.checkpoints_dir, recipe)
        teacher = teacher_of(recipe, args.models_dir, args.epochs)
        training = train(recipe, data, device, path_of_checkpoint, console, teacher)
        console.print(f"{recipe.name}: exporting and comparing", soft_wrap=True)
        metadata, differences = publish.publish(recipe, training, data, path, args.command)
    if recipe.dataset == "folder":
        tell_interval(metadata, console)
    return Export(path, metadata, differences, f"{time.perf_counter() - started:.0f} s")


def tell_interval(metadata: dict[str, str], console: Console) -> None:
    """Say how much the accuracy over a folder's test images tells."""
    correct, images = int(metadata["test_correct"]), int(metadata["test_images"])
    low, high = interval(correct, images)
    line = f"{metadata['name']}: {correct} of {images} test images are right: {correct / images:.1%}, and with 95 % "
    line += f"certainty {low:.1%} to {high:.1%} of all such images"
    if high - low > WIDE_INTERVAL:
        line += "; that is little to go by, and more test images narrow it"
    console.print(line, soft_wrap=True)


def lock_of(models_dir: Path, name: str) -> Path:
    """Name the file that a process locks while it makes a model; hidden, so that no server takes it for one."""
    return models_dir / f".{name}.lock"


def check_places(recipe: Recipe, folder: Path, checkpoints_dir: Path) -> None:
    """Raise PlaceError where what a training leaves cannot be put, before it begins."""
    with torch.device("meta" if recipe.preprocessing is None else "cpu"):  # libraries ask weights for their values
        weights = 4 * count_parameters(network_of(recipe).build())
    # The weights, their average and two numbers of the optimizer for each, beside the checkpoint of the epoch before.
    check_place(checkpoints_dir, 8 * weights + SMALL_FILES, "--checkpoints-dir")
    check_place(folder, weights + SMALL_FILES, "--models-dir")


def make_variant(
    precision: Variant, fp32: Export, path: Path, read_data: Callable[[], Dataset], args: Arguments, console: Console
) -> Export:
    """Make a variant of the fp32 file in place, unless there is one that was made from it."""
    if path.exists() and not args.force:
        metadata = onnx_file.read_metadata(path)
        if is_made_from(metadata, fp32.metadata):
            return Export(path, metadata, None, "up to date")
    started = time.perf_counter()
    name = f"{fp32.name}-{precision}"
    with hold(lock_of(args.models_dir, name), name):
        data = read_data()
        console.print(f"{fp32.name}: making and comparing {precision}", soft_wrap=True)
        metadata = publish.publish_variant(precision, data, fp32.path, path)
    return Export(path, metadata, None, f"{time.perf_counter() - started:.0f} s")


def is_made_from(variant: dict[str, str], fp32: dict[str, str]) -> bool:
    """Whether a variant comes from this very training: the times of its epochs are like no other's."""
    return all(variant.get(key) == fp32.get(key) for key in ("recipe", "history"))


def write_report(export: Export, read_data: Callable[[], Dataset], args: Arguments, console: Console) -> None:
    """Write a file's report, unless it is not wanted, or there is one of this very file."""
    if not args.report:
        return
    try:
        report = json.loads(export.path.with_name("report.json").read_text(encoding="utf-8"))
        if report["facts"] == parse_metadata(export.path):
            return
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none, or not one of ours
    data = read_data()
    console.print(f"{export.name}: measuring for its report", soft_wrap=True)
    write(export.path, data)
