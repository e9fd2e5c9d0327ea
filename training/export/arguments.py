"""What a user types behind `convserve export`: read, checked, and explained by `--help`.

Imports nothing heavy, so that help and refusals come at once.
"""

import argparse
import difflib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ..command import Parser, add_options, rate, use_files
from ..foreign import arguments as foreign_arguments
from ..recipes import RECIPES

PRECISIONS = ("fp32", "int8", "fp16")
# A folder of the models folder, part of a checkpoint's name, and what clients type.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

EXAMPLES = """\
examples:
  {prog} mnist-tiny cifar10-cnn
      train, prove, and put both into models/
  {prog} cifar10-cnn --precision int8
      and a quantised file beside it, models/cifar10-cnn-int8
  {prog} --dataset folder --data-dir images --network cifar10-cnn --name my-model
      a network for your own classes, from images/CLASS/*.jpg (or images/train/CLASS and images/test/CLASS)
  {prog} --timm resnet18 --weights best.safetensors --labels birds.txt --name birds --test pictures
      a network of timm's, torchvision's or your own, proved
  {prog} --dataset folder --data-dir images --start-from cifar10 --name my-model
      a network from the weights of a model, for few images
  {prog} --dataset folder --data-dir images --network torchvision:resnet18 --weights resnet18.pt --name my-model
      the same from those of a library's network
"""


@dataclass(frozen=True)
class Own:
    """What `--dataset folder` asks for."""

    folder: Path
    network: str | None
    """None: that of the model it starts from."""
    name: str
    start: str | None
    """A model of the models folder whose weights it starts from."""
    library: foreign_arguments.Foreign | None
    """What is said of a library's network, where it is one."""


@dataclass(frozen=True)
class Arguments:
    """One command line; most fields stand for the option of their name."""

    command: str
    """The line itself."""
    names: tuple[str, ...]
    """Recipes to export, each once."""
    own: Own | None
    """Pictures to train on instead; there are no names then."""
    foreign: foreign_arguments.Foreign | None
    """A network or file of others to export instead; there are no names then."""
    list: bool
    renew: bool
    """Whether files of an older format are written anew; nothing is trained then."""
    precision: tuple[str, ...]
    """What is asked for, each once."""
    epochs: int | None
    seed: int | None
    learning_rate: float | None
    mixup: float | None
    flip: bool
    """False where --no-flip was given; else as the recipe has it."""
    pixels_in_memory: int
    """MiB of a folder's pixels from which on they lie on disk."""
    data_dir: Path | None
    models_dir: Path
    checkpoints_dir: Path
    device: str
    force: bool
    report: bool


def read(arguments: Sequence[str], prog: str) -> Arguments:
    """Read what stands behind ``prog``; a wrong line ends the process with a sentence and status 2."""
    parser = make_parser(prog)
    given = vars(parser.parse_args(arguments))
    use_files(parser, given.pop("use"))
    names = tuple(dict.fromkeys(RECIPES if given.pop("all") else given.pop("names")))
    dataset, network, name, start = (given.pop(key) for key in ("dataset", "network", "name", "start_from"))
    own, foreign = None, foreign_arguments.take(parser, given, name, network)
    library = foreign if ":" in (network or "") else None
    if foreign is not None and library is None:
        _check_name(parser, foreign.name)
        if names or dataset or network or start:
            parser.error(f"--{foreign.door} exports one network: give it no NAME, --all, --dataset or --network")
    elif dataset == "folder":
        if names:
            parser.error("--dataset folder trains one network: give it by --network, not as NAME or by --all")
        own, foreign = _own(parser, given["data_dir"], network, name, start, library), None
    elif network is not None or name is not None or start is not None:
        parser.error(
            "--network, --name, --start-from are for images of your own: add --dataset folder --data-dir FOLDER"
        )
    elif given["renew"] and names:
        parser.error("--renew writes all files of an older format anew, and trains nothing: give it no NAME")
    elif not names and not given["list"] and not given["renew"]:
        parser.error("name one or more networks, or --all; --list shows them")
    for name in names:
        if name not in RECIPES:
            _unknown(parser, name)
    given["precision"] = tuple(dict.fromkeys(given["precision"] or ["fp32"]))
    return Arguments(command=f"{prog} {shlex.join(arguments)}", names=names, own=own, foreign=foreign, **given)


def _own(
    parser: argparse.ArgumentParser,
    folder: Path | None,
    network: str | None,
    name: str | None,
    start: str | None,
    library: foreign_arguments.Foreign | None,
) -> Own:
    """Refuse what does not go with `--dataset folder`."""
    if folder is None:
        parser.error("--dataset folder needs --data-dir FOLDER, which holds a folder of images for each class")
    if network is None and start is None:
        parser.error(
            f"--dataset folder needs --network, one of {', '.join(RECIPES)} or torchvision:NAME, or --start-from MODEL"
        )
    if library is not None and start is not None:
        parser.error(f"--start-from is for networks of ours: give --weights FILE for {network}")
    if network is not None and library is None and network not in RECIPES:
        _unknown(parser, network)
    if name is None:
        parser.error("--dataset folder needs --name, by which the model will be served")
    _check_name(parser, name)
    return Own(folder, network, name, start, library)


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


def make_parser(prog: str) -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = Parser(
        prog=prog,
        description="Train networks by their recipes, export each as one self-describing ONNX file, and prove that\n"
        "NumPy, PyTorch and ONNX Runtime agree about it before it is put in place. A training that was\n"
        "interrupted goes on from its last finished epoch. A checkpoint that is finished is exported\n"
        "without training; remove it to train anew.",
        epilog=EXAMPLES.format(prog=prog),
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
    own.add_argument(
        "--network",
        metavar="NAME",
        help="the network that is trained, by its own recipe; torchvision:NAME or timm:NAME is theirs, from --weights",
    )
    own.add_argument(
        "--start-from",
        metavar="MODEL",
        help="start from the weights of a model in --models-dir instead of random ones, by a recipe for few images",
    )
    own.add_argument("--name", help="the name by which the model is served")
    own.add_argument(
        "--pixels-in-memory",
        type=positive,
        default=1024,
        metavar="MIB",
        help="decode images of more MiB than this into a file beside the checkpoints (default: 1024)",
    )

    foreign_arguments.add(parser)
    recipe = parser.add_argument_group("changes to the recipe")
    recipe.add_argument("--epochs", type=positive, metavar="N", help="train N epochs instead of the recipe's number")
    recipe.add_argument("--seed", type=int, metavar="N", help="train from seed N instead of the recipe's")
    recipe.add_argument("--learning-rate", type=rate, metavar="R", help="learn at rate R instead of the recipe's")
    recipe.add_argument(
        "--mixup", type=rate, metavar="A", help="mix each image and class with another's, by shares of Beta(A, A)"
    )
    recipe.add_argument(
        "--no-flip",
        dest="flip",
        action="store_false",
        help="never mirror images, for classes that a mirror changes, such as letters or arrows",
    )

    places = parser.add_argument_group("where")
    add_options(places, "--data-dir", "--models-dir", "--checkpoints-dir", "--device", "--use")
    return parser


def positive(text: str) -> int:
    """Read a number of epochs, or of others; argparse reports what is none."""
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def precisions(text: str) -> list[str]:
    """Read precisions with commas between them; argparse reports what is none."""
    wanted = text.split(",")
    for one in wanted:
        if one not in PRECISIONS:
            raise argparse.ArgumentTypeError(f"{one!r} is none of {', '.join(PRECISIONS)}")
    return wanted
