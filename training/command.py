"""What the commands of this package share: options, an exit status, and one sentence on stderr for what went wrong."""

import argparse
import math
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from rich.console import Console

from .errors import TrainingError

RUN = f"python -m {__package__}"
"""What runs a module of this package, once its name is added: training.export in a checkout."""
OPTIONS: dict[str, dict[str, Any]] = {
    "--data-dir": {
        "type": Path,
        "metavar": "DIR",
        "help": "where the data sets are, or the images of your own (default: $CONVSERVE_DATA_DIR, else data)",
    },
    "--models-dir": {
        "type": Path,
        "metavar": "DIR",
        "default": Path("models"),
        "help": "where models are (default: models)",
    },
    "--checkpoints-dir": {
        "type": Path,
        "metavar": "DIR",
        "default": Path("checkpoints"),
        "help": "where unfinished and finished trainings are kept (default: checkpoints)",
    },
    "--use": {
        "type": Path,
        "action": "append",
        "default": [],
        "metavar": "FILE",
        "help": "a Python file that adds a network or a data set of your own (docs/own-network.md); may be repeated",
    },
    "--device": {
        "choices": ["auto", "cpu", "cuda"],
        "default": "auto",
        "help": "what trains (default: auto, CUDA if present)",
    },
}


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line in one sentence, without the usage above it, which `--help` has."""

    def error(self, message: str) -> NoReturn:
        """Report what is wrong, and end the process with status 2."""
        self.exit(2, f"error: {message} (--help shows all options)\n")


def add_options(parser: argparse._ActionsContainer, *names: str) -> None:
    """Give a parser, or a group of one, some of `OPTIONS`."""
    for name in names:
        parser.add_argument(name, **OPTIONS[name])


def use_files(parser: argparse.ArgumentParser, files: Sequence[Path]) -> None:
    """Run the files of `--use`; a broken one ends the process with a sentence and status 2."""
    if files:
        from . import additions

        try:
            additions.use(files)
        except TrainingError as error:
            parser.error(str(error))


def exit_status(work: Callable[[], object], interrupted: str) -> int:
    """Run a command's work; gives 0, 1 (a sentence says why), or 130 with what is true after Ctrl-C."""
    try:
        with interrupt_remembered() as was_interrupted:
            try:
                work()
            except Exception:
                if was_interrupted():  # code of C made another error of it
                    raise KeyboardInterrupt from None
                raise
    except TrainingError as error:
        return fail(str(error))
    except OSError as error:
        return fail(
            f"{error.filename or 'a file'}: {error.strerror or error}; nothing was left half-written, so mend that "
            f"(free some space, or name another folder) and run the same command, which goes on from here"
        )
    except KeyboardInterrupt:
        return fail(f"interrupted; {interrupted}", status=130)
    return 0


def rate(text: str) -> float:
    """Read a number above 0; argparse reports what is none."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


@contextmanager
def interrupt_remembered() -> Iterator[Callable[[], bool]]:
    """While the block runs, remember whether Ctrl-C was pressed; it raises KeyboardInterrupt as always.

    A process that ignores the signal goes on ignoring it.
    """
    pressed: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        signal.default_int_handler(number, frame)

    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: bool(pressed)
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def fail(sentence: str, status: int = 1) -> int:
    """Report an error on stderr; gives the exit status."""
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(f"error: {sentence}")
    return status


def make_console() -> Console:
    """Give the console of a command, which prints names as they are, and has no edge to wrap at in a log."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 200
    return console
