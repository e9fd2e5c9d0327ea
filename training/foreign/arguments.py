"""The options of networks and files of others: read, and checked against each other.

Imports nothing heavy, so that help and refusals come at once.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..command import rate

DOORS = ("module", "timm", "torchvision", "onnx")
LIBRARIES = ("timm", "torchvision")
OPTIONS = (
    *("weights", "pretrained", "output", "labels", "size", "mean", "std", "crop", "resize", "interpolation", "colors"),
    *("polarity", "test", "temperature", "fact"),
)
ONLY = {
    "weights": ("module", "timm", "torchvision"),
    "pretrained": ("timm", "torchvision"),
    "output": ("onnx",),
}
# What goes with `--network torchvision:resnet18`, which is trained: its folder has labels and test images.
TRAINED = ("weights", "pretrained", "size", "mean", "std", "crop", "resize", "interpolation")


TWICE = "--weights and --pretrained are two sets of weights: give one"


@dataclass(frozen=True)
class Foreign:
    """What `--module`, `--timm`, `--torchvision`, `--onnx` or a library's `--network` ask for.

    None is what the library declares.
    """

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


def take(
    parser: argparse.ArgumentParser, given: dict[str, Any], name: str | None, network: str | None
) -> Foreign | None:
    """Take these options out of what was given; None where there is no such network or file.

    `network` is what `--network` says, which may be a library's network to train.
    """
    sources = {door: given.pop(door) for door in DOORS}
    options = {option: given.pop(option) for option in OPTIONS}
    doors = [door for door, source in sources.items() if source is not None]
    set_ = [option for option, value in options.items() if value not in (None, False, [])]
    library, colon, source = (network or "").partition(":")
    if colon and not doors:
        _check_trained(parser, network or "", library, set_)
        doors, sources = [library], {library: source}
    elif not doors:
        if set_:
            known = ", ".join(f"--{door}" for door in DOORS)
            parser.error(f"--{set_[0]} is for a network or file of others: add one of {known}")
        return None
    if len(doors) > 1:
        parser.error(f"--{doors[0]} and --{doors[1]} are two networks: give one")
    (door,) = doors
    if not colon:
        _check(parser, door, options, set_)
    for option, default in {"colors": "RGB", "polarity": "normal", "temperature": "fit", "output": ""}.items():
        options[option] = options[option] or default
    facts = tuple(options.pop("fact"))
    return Foreign(door=door, source=sources[door], name=name or _name(door, sources[door]), facts=facts, **options)


def _check_trained(parser: argparse.ArgumentParser, network: str, library: str, set_: Sequence[str]) -> None:
    """Refuse libraries that there are not, and what a training of their networks has no use for."""
    if library not in LIBRARIES:
        parser.error(f"--network {network} is of no library that is known: {', '.join(LIBRARIES)}")
    for option in set_:
        if option not in TRAINED:
            parser.error(f"--{option} does not go with --network {network}: the folder has classes and test images")
    if "weights" in set_ and "pretrained" in set_:
        parser.error(TWICE)


def _check(parser: argparse.ArgumentParser, door: str, options: Mapping[str, Any], set_: Sequence[str]) -> None:
    """Refuse options that a source does not know, and a source that lacks one."""
    for option in set_:
        if door not in ONLY.get(option, DOORS):
            parser.error(f"--{option} does not go with --{door}")
    if options["weights"] and options["pretrained"]:
        parser.error(TWICE)
    if door in LIBRARIES and not (options["weights"] or options["pretrained"]):
        parser.error(f"--{door} needs weights: --weights FILE, or --pretrained to have {door} download its own")
    for option in ("labels", "size"):
        if door in ("module", "onnx") and options[option] is None:
            parser.error(f"--{door} needs --{option}")


def _name(door: str, source: str) -> str:
    """Give the name by which a network is served where none is given."""
    if door == "onnx":
        return Path(source).stem
    return re.split("[:.]", source)[-1 if door == "module" else 0]


def add(parser: argparse.ArgumentParser) -> None:
    """Describe networks and files of others, what is known of them, and how images are prepared for them."""
    option = parser.add_argument_group("networks and files of others, exported without training").add_argument
    option("--module", metavar="PACKAGE:NAME", help="a function that gives a torch.nn.Module, or a module")
    option("--timm", metavar="NAME", help="a network of timm")
    option("--torchvision", metavar="NAME", help="a classifier of torchvision")
    option("--onnx", metavar="FILE", help="an ONNX file that takes float32 images, NCHW, NHWC or flat")
    option("--weights", type=Path, metavar="FILE", help="weights of torch.save or safetensors; only tensors are loaded")
    option("--pretrained", action="store_true", help="let timm or torchvision download weights of its own")
    option("--output", metavar="NAME", help="the output of an ONNX file that has the classes, where there are several")
    option("--labels", type=Path, metavar="FILE", help="the names of the classes, one a line, in the network's order")
    option(
        "--test",
        type=Path,
        metavar="DIR",
        help="a folder of images for each class, for accuracy, temperature, report",
    )
    option("--temperature", type=rate, metavar="T", help="divide logits by T (default: fitted on half of --test)")
    option(
        "--fact", type=fact, action="append", default=[], metavar="KEY=VALUE", help="an entry of the file's metadata"
    )
    option = parser.add_argument_group(
        "how images are prepared (default: as timm or torchvision declares)"
    ).add_argument
    option("--size", type=sides, metavar="N[,M]", help="the network's height and width in pixels")
    option("--mean", type=numbers, metavar="R,G,B", help="subtracted from pixels from 0 to 1 (default: 0)")
    option("--std", type=numbers, metavar="R,G,B", help="pixels are then divided by it (default: 1)")
    option("--crop", type=rate, metavar="SHARE", help="keep this share of the shorter side, such as 0.875")
    option(
        "--resize", type=sides, metavar="N[,M]", help="resize the shorter side to N, or to height N and width M, first"
    )
    option("--interpolation", metavar="FILTER", help="nearest, box, bilinear, hamming, bicubic or lanczos")
    option("--colors", metavar="ORDER", help="RGB or BGR")
    option("--polarity", metavar="P", help="normal, or inverted: 255 less each pixel")


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
