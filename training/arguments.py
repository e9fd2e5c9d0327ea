"""What a user types behind `python -m training.export`: read, checked, and explained by `--help`.

Imports nothing heavy, so that help and refusals come at once.
"""

import argparse
import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from training.command import add_options
from training.recipes import RECIPES

PRECISIONS = ("fp32", "int8", "fp16")
# A folder of the models folder, part of a checkpoint's name, and what clients type.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

DOORS = ("module", "timm", "torchvision", "onnx")
FOREIGN_OPTIONS = (
    *("weights", "pretrained", "output", "labels", "size", "mean", "std", "crop", "resize", "interpolation", "colors"),
    *("polarity", "test", "temperature", "fact"),
)
ONLY = {
    "weights": ("module", "timm", "torchvision"),
    "pretrained": ("timm", "torchvision"),
    "output": ("onnx",),
}

EXAMPLES = """\
examples:
  python -m training.export mnist-tiny cifar10-cnn          train, prove, and put both into models/
  python -m training.export cifar10-cnn --precision int8    and a quantised file beside it, models/cifar10-cnn-int8
  python -m training.export --dataset folder --data-dir images --network cifar10-cnn --name my-model
                                                            a network for your own classes, from images/CLASS/*.jpg
                                                            (or images/train/CLASS and images/test/CLASS)
  python -m training.export --timm resnet18 --weights best.safetensors --labels birds.txt --name birds --test pictures
                                                            a network of timm's, torchvision's or your own, proved
"""


@dataclass(frozen=True)
class Own:
    """What `--dataset folder` asks for."""

    folder: Path
    network: str
    name: str


@dataclass(frozen=True)
class Foreign:
    """What `--module`, `--timm`, `--torchvision` or `--onnx` ask for; None is what the library declares."""

    door: str
    """The option without its dashes."""
    source: str
    name: str
    weights: Path | None
    pretrained: bool
    output: str
    labels: Path | None
    size: tuple[int, ...] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    crop: float | None
    resize: tuple[int, ...] | None
    interpolation: str | None
    colors: str
    polarity: str
    test: Path | None
    temperature: float | Literal["fit"]
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Arguments:
    """One command line; most fields stand for the option of their name."""

    names: tuple[str, ...]
    """Recipes to export, each once."""
    own: Own | None
    """Pictures to train on instead; there are no names then."""
    foreign: Foreign | None
    """A network or file of others to export instead; there are no names then."""
    list: bool
    renew: bool
    """Whether files of an older format are written anew; nothing is trained then."""
    precision: tuple[str, ...]
    """What is asked for, each once."""
    epochs: int | None
    seed: int | None
    learning_rate: float | None
    flip: bool
    """False where --no-flip was given; else as the recipe has it."""
    data_dir: Path | None
    models_dir: Path
    checkpoints_dir: Path
    device: str
    force: bool
    report: bool


def read(arguments: Sequence[str] | None) -> Arguments:
    """Read a command line (None: the process's own); a wrong one ends the process with a sentence and status 2."""
    parser = make_parser()
    given = vars(parser.parse_args(arguments))
    names = tuple(dict.fromkeys(RECIPES if given.pop("all") else given.pop("names")))
    dataset, network, name = (given.pop(key) for key in ("dataset", "network", "name"))
    own, foreign = None, _foreign(parser, given, name)
    if foreign is not None:
        if names or dataset or network:
            parser.error(f"--{foreign.door} exports one network: give it no NAME, --all, --dataset or --network")
    elif dataset == "folder":
        own = _own(parser, names, given["data_dir"], network, name)
    elif network is not None or name is not None:
        parser.error("--network and --name are for images of your own: add --dataset folder --data-dir FOLDER")
    elif given["renew"] and names:
        parser.error("--renew writes all files of an older format anew, and trains nothing: give it no NAME")
    elif not names and not given["list"] and not given["renew"]:
        parser.error("name one or more networks, or --all; --list shows them")
    for name in names:
        if name not in RECIPES:
            _unknown(parser, name)
    given["precision"] = tuple(dict.fromkeys(given["precision"] or ["fp32"]))
    return Arguments(names=names, own=own, foreign=foreign, **given)


def _own(
    parser: argparse.ArgumentParser, names: Sequence[str], folder: Path | None, network: str | None, name: str | None
) -> Own:
    """Refuse what does not go with `--dataset folder`."""
    if names:
        parser.error("--dataset folder trains one network: give it by --network, not as NAME or by --all")
    if folder is None:
        parser.error("--dataset folder needs --data-dir FOLDER, which holds a folder of images for each class")
    if network is None:
        parser.error(f"--dataset folder needs --network, one of {', '.join(RECIPES)}")
    if network not in RECIPES:
        _unknown(parser, network)
    if name is None:
        parser.error("--dataset folder needs --name, by which the model will be served")
    _check_name(parser, name)
    return Own(folder, network, name)


def _foreign(parser: argparse.ArgumentParser, given: dict[str, Any], name: str | None) -> Foreign | None:
    """Take the options of a network or file of others, and refuse what does not go together."""
    sources = {door: given.pop(door) for door in DOORS}
    options = {option: given.pop(option) for option in FOREIGN_OPTIONS}
    doors = [door for door, source in sources.items() if source is not None]
    idle = [option for option, value in options.items() if value not in (None, False, [])]
    if not doors:
        if idle:
            parser.error(
                f"--{idle[0]} is for a network or file of others: add one of {', '.join(map('--{}'.format, DOORS))}"
            )
        return None
    if len(doors) > 1:
        parser.error(f"--{doors[0]} and --{doors[1]} are two networks: give one")
    (door,) = doors
    for option in idle:
        if door not in ONLY.get(option, DOORS):
            parser.error(f"--{option} does not go with --{door}")
    if options["weights"] and options["pretrained"]:
        parser.error("--weights and --pretrained are two sets of weights: give one")
    if door in ("timm", "torchvision") and not (options["weights"] or options["pretrained"]):
        parser.error(f"--{door} needs weights: --weights FILE, or --pretrained to have {door} download its own")
    if door in ("module", "onnx"):
        for option in ("labels", "size"):
            if options[option] is None:
                parser.error(f"--{door} needs --{option}")
    stem = (
        Path(sources[door]).stem if door == "onnx" else re.split(r"[:.]", sources[door])[-1 if door == "module" else 0]
    )
    name = name or stem
    _check_name(parser, name)
    options["colors"], options["polarity"] = options["colors"] or "RGB", options["polarity"] or "normal"
    options["temperature"] = options["temperature"] or "fit"
    options["output"] = options["output"] or ""
    facts = tuple(options.pop("fact"))
    return Foreign(door=door, source=sources[door], name=name, facts=facts, **options)


def _check_name(parser: argparse.ArgumentParser, name: str) -> None:
    """Refuse what names no model of one's own."""
    if not NAME.fullmatch(name):
        parser.error(
            f"--name {name!r} cannot name a model: up to 64 letters, digits, '.', '_' and '-' can, beginning with a "
            f"letter or digit"
        )
    if name in RECIPES:
        parser.error(f"--name {name} is taken by a network of ours; choose another")
    if name.endswith(tuple(f"-{precision}" for precision in PRECISIONS)):
        parser.error(f"--name {name} ends as the name of a variant made by --precision does; choose another")


def _unknown(parser: argparse.ArgumentParser, name: str) -> NoReturn:
    closest = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0)[0]
    parser.error(f"there is no network {name!r}; did you mean {closest!r}? --list shows all")


def make_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.export",
        description="Train networks by their recipes, export each as one self-describing ONNX file, and prove that\n"
        "NumPy, PyTorch and ONNX Runtime agree about it before it is put in place. A training that was\n"
        "interrupted goes on from its last finished epoch. A checkpoint that is finished is exported\n"
        "without training; remove it to train anew.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="networks to export; --list shows them")
    parser.add_argument("--all", action="store_true", help="export every network")
    parser.add_argument("--list", action="store_true", help="show the networks, and what is in place, and stop")
    parser.add_argument(
        "--renew",
        action="store_true",
        help="write every file of an older format in --models-dir anew, without training: the same graph and figures, "
        "with the hashes and logits that are proved today",
    )
    parser.add_argument(
        "--precision",
        type=precisions,
        action="extend",
        metavar="P[,P]",
        help=f"of {', '.join(PRECISIONS)}: also make the variants NAME-int8 or NAME-fp16 from the fp32 file, which is "
        f"made first where it is missing (default: fp32)",
    )
    parser.add_argument("--force", action="store_true", help="export again where a file is already in place")
    parser.add_argument(
        "--no-report", dest="report", action="store_false", help="write no report beside the files that are made"
    )

    own = parser.add_argument_group("images of your own")
    own.add_argument("--dataset", choices=["folder"], help="train on --data-dir, a folder of images for each class")
    own.add_argument("--network", metavar="NAME", help="the network that is trained, by its own recipe")
    own.add_argument("--name", help="the name by which the model is served")

    _add_foreign(parser)
    recipe = parser.add_argument_group("changes to the recipe")
    recipe.add_argument("--epochs", type=positive, metavar="N", help="train N epochs instead of the recipe's number")
    recipe.add_argument("--seed", type=int, metavar="N", help="train from seed N instead of the recipe's")
    recipe.add_argument("--learning-rate", type=rate, metavar="R", help="learn at rate R instead of the recipe's")
    recipe.add_argument(
        "--no-flip",
        dest="flip",
        action="store_false",
        help="never mirror images, for classes that a mirror changes, such as letters or arrows",
    )

    places = parser.add_argument_group("where")
    add_options(places, "--data-dir", "--models-dir", "--checkpoints-dir", "--device")
    return parser


def _add_foreign(parser: argparse.ArgumentParser) -> None:
    """Describe networks and files of others, what is known of them, and how images are prepared for them."""
    add = parser.add_argument_group("networks and files of others, exported without training").add_argument
    add("--module", metavar="PACKAGE:NAME", help="a function that gives a torch.nn.Module, or a module")
    add("--timm", metavar="NAME", help="a network of timm")
    add("--torchvision", metavar="NAME", help="a classifier of torchvision")
    add("--onnx", metavar="FILE", help="an ONNX file that takes float32 images, NCHW, NHWC or flat")
    add("--weights", type=Path, metavar="FILE", help="weights of torch.save or safetensors; only tensors are loaded")
    add("--pretrained", action="store_true", help="let timm or torchvision download weights of its own")
    add("--output", metavar="NAME", help="the output of an ONNX file that has the classes, where there are several")
    add("--labels", type=Path, metavar="FILE", help="the names of the classes, one a line, in the network's order")
    add(
        "--test",
        type=Path,
        metavar="DIR",
        help="a folder of images for each class: accuracy, temperature, int8, report",
    )
    add("--temperature", type=rate, metavar="T", help="divide logits by T (default: fitted on half of --test)")
    add("--fact", type=fact, action="append", default=[], metavar="KEY=VALUE", help="an entry of the file's metadata")
    add = parser.add_argument_group("how images are prepared (default: as timm or torchvision declares)").add_argument
    add("--size", type=sides, metavar="N[,M]", help="the network's height and width in pixels")
    add("--mean", type=numbers, metavar="R,G,B", help="subtracted from pixels from 0 to 1 (default: 0)")
    add("--std", type=numbers, metavar="R,G,B", help="pixels are then divided by it (default: 1)")
    add("--crop", type=rate, metavar="SHARE", help="keep this share of the shorter side, such as 0.875")
    add("--resize", type=sides, metavar="N[,M]", help="resize the shorter side to N, or to height N and width M, first")
    add("--interpolation", metavar="FILTER", help="nearest, box, bilinear, hamming, bicubic or lanczos")
    add("--colors", metavar="ORDER", help="RGB or BGR")
    add("--polarity", metavar="P", help="normal, or inverted: 255 less each pixel")


def sides(text: str) -> tuple[int, ...]:
    """Read one or two numbers of pixels; argparse reports what is none."""
    parts = text.split(",")
    if len(parts) > 2 or not all(part.isascii() and part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not one or two whole numbers from 1, such as 224 or 224,320")
    return tuple(map(int, parts))


def numbers(text: str) -> tuple[float, ...]:
    """Read one or three numbers; argparse reports what is none."""
    try:
        found = tuple(map(float, text.split(",")))
    except ValueError:
        found = ()
    if len(found) not in (1, 3):
        raise argparse.ArgumentTypeError(f"{text!r} is not one or three numbers with commas, such as 0.485,0.456,0.406")
    return found


def fact(text: str) -> tuple[str, str]:
    """Read a fact; argparse reports what is none."""
    key, sign, value = text.partition("=")
    if not sign or not re.fullmatch(r"[a-z][a-z0-9_]*", key):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE, with a key of small letters")
    return key, value


def positive(text: str) -> int:
    """Read a number of epochs; argparse reports what is none."""
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a whole number from 1; a network is never exported untrained"
        )
    return int(text)


def rate(text: str) -> float:
    """Read a learning rate; argparse reports what is none."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def precisions(text: str) -> list[str]:
    """Read precisions with commas between them; argparse reports what is none."""
    wanted = text.split(",")
    for one in wanted:
        if one not in PRECISIONS:
            raise argparse.ArgumentTypeError(f"{one!r} is none of {', '.join(PRECISIONS)}")
    return wanted
