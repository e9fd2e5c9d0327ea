"""Words of a command line, checked: for argparse's ``type``, which shows the sentence."""

import argparse
import os
from collections.abc import Callable, Iterable
from pathlib import Path


def count(text: str) -> int:
    """A whole number above zero."""
    if not (text.strip().isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected a whole number above zero, not {text!r}")
    return int(text)


def seconds(text: str) -> float:
    """Seconds above 0, at most 60."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 60:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, at most 60, not {text!r}")
    return value


def file(text: str) -> Path:
    """A file to be written, in a folder that exists."""
    path = Path(text)
    if not path.parent.is_dir():  # said now, not when all has been measured
        raise argparse.ArgumentTypeError(f"the folder {path.parent} does not exist: make it, or name another")
    return path


def program(text: str) -> Path:
    """A program that can be run."""
    path = Path(text).absolute()  # not resolved: an environment's interpreter is a link, and the link is what counts
    if not os.access(path, os.X_OK):
        raise argparse.ArgumentTypeError(f"{text} is no program that can be run: name an environment's bin/python")
    return path


def names(text: str) -> tuple[str, ...]:
    """Names separated by commas, each once."""
    found = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not found:
        raise argparse.ArgumentTypeError("expected at least one name")
    return found


def chosen(kind: str, known: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    """Names of things of this kind that are known."""

    def check(text: str) -> tuple[str, ...]:
        unknown = [name for name in names(text) if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"there is no {kind} {unknown[0]!r}; there are {', '.join(known)}")
        return names(text)

    return check


def add_common(parser: argparse.ArgumentParser) -> None:
    """Adds the options that every benchmark of served models has."""
    parser.add_argument("--json", type=file, metavar="FILE", help="also write the JSON line to this file")
    parser.add_argument("--models-dir", type=Path, default=Path("models"), help="default: models")
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=Path(os.environ.get("CONVSERVE_DATA_DIR", "data")),
        help="test images in torchvision's layout (default: CONVSERVE_DATA_DIR, or data)",
    )
