"""Words of a command line, checked: for argparse's ``type``, which shows the sentence."""

import argparse
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
