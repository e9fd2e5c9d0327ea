"""`python -m training.export`: train what has no finished checkpoint, export it, prove it, then put it in place.

The steps for one network are in `run`, and the checks in `publication`. Whatever fails, or is interrupted, leaves the
models folder as it was.
"""

import argparse
import dataclasses
import difflib
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from training import onnx_file, parity
from training.data import default_data_dir, load
from training.device import choose_device
from training.errors import TrainingError
from training.networks import NETWORKS
from training.publication import publish
from training.recipes import RECIPES, Recipe
from training.train import train


@dataclass(frozen=True)
class Export:
    """One line of the final table: a file in the models folder, and what was measured on it."""

    path: Path
    facts: dict[str, str]
    differences: parity.Differences | None
    """None for a file that was there already."""
    remark: str
    """How long it took, or why nothing was done."""


def main(arguments: list[str] | None = None) -> int:
    """Run ``python -m training.export``; gives the exit status: 0, 1 (a sentence says why), or 130 (interrupted)."""
    parser = make_parser()
    chosen = parser.parse_args(arguments)
    console = Console(highlight=False)
    if chosen.list:
        console.print(list_networks(chosen.models_dir), soft_wrap=True)
        return 0
    names = list(RECIPES) if chosen.all else chosen.names
    if not names:
        parser.error("name one or more networks, or --all; --list shows them")
    for name in names:
        if name not in RECIPES:
            closest = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0)[0]
            parser.error(f"there is no network {name!r}; did you mean {closest!r}? --list shows all")

    exports: list[Export] = []
    status = 0
    try:
        for name in dict.fromkeys(names):  # each once
            recipe = customise(RECIPES[name], chosen.epochs, chosen.seed)
            exports.append(run(recipe, chosen, console))
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
        if not console.is_terminal:
            console.width = 200  # a log has no edge to wrap at
        console.print(report(exports))
    return status


def run(recipe: Recipe, chosen: argparse.Namespace, console: Console) -> Export:
    """Bring one network's file into being, unless it is there."""
    path: Path = chosen.models_dir / recipe.network / "1" / "model.onnx"
    if path.exists() and not chosen.force:
        facts = onnx_file.read_metadata(path)
        same = facts["recipe"] == onnx_file.to_json(recipe.numbers())
        remark = "up to date" if same else "kept, though made by another recipe; --force replaces it"
        return Export(path, facts, None, remark)
    started = time.perf_counter()
    device = choose_device(chosen.device)
    data = load(recipe.dataset, chosen.data_dir)
    training = train(recipe, data, device, chosen.checkpoints_dir / f"{recipe.network}.pt", console)
    console.print(f"{recipe.network}: exporting and comparing", soft_wrap=True)
    facts, differences = publish(recipe, training, data, path)
    return Export(path, facts, differences, f"{time.perf_counter() - started:.0f} s")


def customise(recipe: Recipe, epochs: int | None, seed: int | None) -> Recipe:
    """Give the recipe with another number of epochs, or another seed, where one was asked for."""
    return dataclasses.replace(
        recipe,
        epochs=recipe.epochs if epochs is None else epochs,
        seed=recipe.seed if seed is None else seed,
    )


def report(exports: list[Export]) -> Table:
    """Draw the table that ends a run."""
    table = Table("name", "data set")
    for column in ("parameters", "size", "test accuracy", "max |Δ| torch, NumPy", "ORT, NumPy", "ORT, torch", "time"):
        table.add_column(column, justify="right")
    table.add_column("path", overflow="fold")
    for done in exports:
        facts, found = done.facts, done.differences
        figures = (found.torch_numpy, found.onnx_numpy, found.onnx_torch) if found is not None else ()
        table.add_row(
            facts["network"],
            facts["dataset"],
            f"{int(facts['parameters']):,}",
            f"{done.path.stat().st_size / 1e6:.2f} MB",
            f"{float(facts['test_accuracy']):.2%}",
            *([f"{figure:.1e}" for figure in figures] or ["-"] * 3),
            done.remark,
            str(done.path),
        )
    return table


def list_networks(models_dir: Path) -> Table:
    """Draw the table of all networks: what they are, and whether they are exported."""
    table = Table("name", "data set", "architecture", "epochs", "exported")
    for name, recipe in RECIPES.items():
        exported = "yes" if (models_dir / name / "1" / "model.onnx").exists() else "no"
        table.add_row(name, recipe.dataset, NETWORKS[name].architecture, str(recipe.epochs), exported)
    return table


def make_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.export",
        description="Train networks by their recipes, export each as one self-describing ONNX file, and prove that "
        "NumPy, PyTorch and ONNX Runtime agree about it before it is put in place. A training that was interrupted "
        "goes on from its last finished epoch. A checkpoint that is finished is exported without training; remove it "
        "to train anew.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="networks to export; --list shows them")
    parser.add_argument("--all", action="store_true", help="export every network")
    parser.add_argument("--list", action="store_true", help="show the networks and stop")
    parser.add_argument("--epochs", type=positive, metavar="N", help="train N epochs instead of the recipe's number")
    parser.add_argument("--seed", type=int, metavar="N", help="train from seed N instead of the recipe's")
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=default_data_dir(),
        metavar="DIR",
        help="where the data sets are (default: $CONVSERVE_DATA_DIR, else data)",
    )
    parser.add_argument(
        "--models-dir", type=Path, default=Path("models"), metavar="DIR", help="where files go (default: models)"
    )
    parser.add_argument(
        "--checkpoints-dir",
        type=Path,
        default=Path("checkpoints"),
        metavar="DIR",
        help="where unfinished and finished trainings are kept (default: checkpoints)",
    )
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="what trains (default: auto, CUDA if present)"
    )
    parser.add_argument("--force", action="store_true", help="export again where a file is already in place")
    return parser


def positive(text: str) -> int:
    """Read a number of epochs; argparse reports what is none."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a whole number from 1; a network is never exported untrained"
        )
    return int(text)


def fail(sentence: str) -> int:
    """Report an error on stderr; gives the exit status."""
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(f"error: {sentence}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
