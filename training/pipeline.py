"""The steps from a name to the files in the models folder: train, publish, make variants, report."""

import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from rich.console import Console

from training import checkpoint, onnx_file, publication, report, tables
from training.arguments import Arguments
from training.data import Dataset, default_data_dir, load
from training.device import choose_device
from training.errors import DataError, TrainingError
from training.folder import load_folder
from training.measurement import read_facts
from training.networks import NETWORKS
from training.recipes import RECIPES, Recipe, teacher_of
from training.tables import Export, path_of
from training.train import train

Variant = Literal["int8", "fp16"]
VARIANTS: tuple[Variant, ...] = ("int8", "fp16")


def run(chosen: Arguments) -> int:
    """Do what a command line asks for; gives the exit status: 0, 1 (a sentence says why), or 130 (interrupted)."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 200  # a log has no edge to wrap at
    exports: list[Export] = []
    status = 0
    try:
        if chosen.list:
            console.print(tables.of_networks(chosen.models_dir))
        for recipe, read_data in jobs(chosen, console):
            # One by one, because what was made before a failure is shown too.
            for export in make(recipe, read_data, chosen, console):
                exports.append(export)  # noqa: PERF402
    except TrainingError as error:
        status = fail(str(error))
    except OSError as error:
        status = fail(
            f"{error.filename or 'a file'}: {error.strerror or error}; nothing was left half-written, so mend that "
            f"(free some space, or name another folder) and run the same command, which goes on from here"
        )
    except KeyboardInterrupt:
        fail("interrupted; epochs that were finished are kept, and the same command goes on from there")
        status = 130
    if exports:
        console.print(tables.of_exports(exports))
    return status


def jobs(chosen: Arguments, console: Console) -> Iterator[tuple[Recipe, Callable[[], Dataset]]]:
    """Give each recipe that is asked for, with a function that reads its data; an up-to-date file needs none."""
    if chosen.own is not None:
        data = load_folder(chosen.own.folder, NETWORKS[chosen.own.network].shape, console)
        yield customise(recipe_for(data, chosen.own.network, chosen.own.name), chosen), lambda: data
    for name in chosen.names:
        recipe = customise(RECIPES[name], chosen)
        yield recipe, functools.cache(functools.partial(load, recipe.dataset, chosen.data_dir or default_data_dir()))


def recipe_for(data: Dataset, network: str, name: str) -> Recipe:
    """Give the network's own recipe, made to fit a folder's data set."""
    recipe = RECIPES[network]
    steps = math.ceil(len(data.train_images) / recipe.batch)
    return dataclasses.replace(
        recipe,
        name=name,
        dataset="folder",
        validation=len(data.validation_images),
        teacher="",  # it knows other classes
        taught_by="",
        views=0,
        teaching=0.0,
        teaching_temperature=0.0,
        average=min(recipe.average, round(1 - 1 / steps, 4)),  # over the last epoch at most, however short it is
        digest=data.digest(),
    )


def customise(recipe: Recipe, chosen: Arguments) -> Recipe:
    """Give the recipe with the numbers that were asked for."""
    return dataclasses.replace(
        recipe if chosen.epochs is None else recipe.lasting(chosen.epochs),
        seed=recipe.seed if chosen.seed is None else chosen.seed,
        learning_rate=recipe.learning_rate if chosen.learning_rate is None else chosen.learning_rate,
        flip=recipe.flip and chosen.flip,
    )


def make(recipe: Recipe, read_data: Callable[[], Dataset], chosen: Arguments, console: Console) -> Iterator[Export]:
    """Bring one network's files into being, unless they are there: fp32, then the variants, which are made from it."""
    fp32 = make_fp32(recipe, read_data, chosen, console)
    yield fp32
    wanted = [precision for precision in VARIANTS if precision in chosen.precision]
    if json.loads(fp32.facts["recipe"]).get("digest") != recipe.digest:
        if wanted:
            raise DataError(
                f"{fp32.path} was made from other pictures than these, so it cannot be compared with its variants; "
                f"--force makes it anew"
            )
        return
    write_report(fp32, read_data, chosen, console)
    for precision in VARIANTS:
        path = path_of(chosen.models_dir, f"{recipe.name}-{precision}")
        if precision in wanted:
            variant = make_variant(precision, fp32, path, read_data, chosen, console)
            yield variant
            write_report(variant, read_data, chosen, console)
        elif path.exists() and not is_made_from(onnx_file.read_metadata(path), fp32.facts):
            console.print(
                f"{path} was made from an earlier {recipe.name}; --precision {precision} makes it anew", soft_wrap=True
            )


def make_fp32(recipe: Recipe, read_data: Callable[[], Dataset], chosen: Arguments, console: Console) -> Export:
    """Train and publish, unless a file is in place."""
    path = path_of(chosen.models_dir, recipe.name)
    if path.exists() and not chosen.force:
        facts = onnx_file.read_metadata(path)
        different = sorted(recipe.differences(json.loads(facts["recipe"])))
        if not different:
            return Export(path, facts, None, "up to date")
        what = ", ".join("pictures" if key == "digest" else key for key in different)
        console.print(
            f"{recipe.name}: kept, though made by another recipe ({what}); --force replaces it", soft_wrap=True
        )
        return Export(path, facts, None, "kept")
    started = time.perf_counter()
    device = choose_device(chosen.device)
    data = read_data()
    path_of_checkpoint = checkpoint.path_of(chosen.checkpoints_dir, recipe)
    teacher = teacher_of(recipe, chosen.models_dir, chosen.epochs)
    training = train(recipe, data, device, path_of_checkpoint, console, teacher)
    console.print(f"{recipe.name}: exporting and comparing", soft_wrap=True)
    facts, differences = publication.publish(recipe, training, data, path)
    return Export(path, facts, differences, f"{time.perf_counter() - started:.0f} s")


def make_variant(
    precision: Variant,
    fp32: Export,
    path: Path,
    read_data: Callable[[], Dataset],
    chosen: Arguments,
    console: Console,
) -> Export:
    """Make a variant of the fp32 file in place, unless there is one that was made from it."""
    if path.exists() and not chosen.force:
        facts = onnx_file.read_metadata(path)
        if is_made_from(facts, fp32.facts):
            return Export(path, facts, None, "up to date")
    started = time.perf_counter()
    data = read_data()
    console.print(f"{fp32.name}: making and comparing {precision}", soft_wrap=True)
    facts = publication.publish_variant(precision, data, fp32.path, path)
    return Export(path, facts, None, f"{time.perf_counter() - started:.0f} s")


def is_made_from(variant: dict[str, str], fp32: dict[str, str]) -> bool:
    """Whether a variant comes from this very training: the times of its epochs are like no other's."""
    return all(variant.get(key) == fp32.get(key) for key in ("recipe", "history"))


def write_report(export: Export, read_data: Callable[[], Dataset], chosen: Arguments, console: Console) -> None:
    """Write a file's report, unless it is not wanted, or there is one of this very file."""
    if not chosen.report:
        return
    try:
        told = json.loads(export.path.with_name("report.json").read_text(encoding="utf-8"))
        if told["facts"] == read_facts(export.path):
            return
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none, or not one of ours
    data = read_data()
    console.print(f"{export.name}: measuring for its report", soft_wrap=True)
    report.write(export.path, data)


def fail(sentence: str) -> int:
    """Report an error on stderr; gives the exit status."""
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(f"error: {sentence}")
    return 1
