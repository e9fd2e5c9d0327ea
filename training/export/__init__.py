"""`convserve export`: train what has no finished checkpoint, export it, prove it, then put it in place.

The command line is in `arguments`, the steps for one network are in `pipeline`, and the checks in `publish`.
`export_module` does the same for any PyTorch module, from Python; it is in `module`.
Whatever fails, or is interrupted, leaves the models folder as it was.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from .module import export_module

__all__ = ["export_module", "main"]

PROG = f"python -m {__package__}"


def main(line: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the command; gives the exit status: 0, 1 (a sentence says why), or 130 (interrupted)."""
    with interrupt_ends_process():
        from . import arguments

        args = arguments.read(sys.argv[1:] if line is None else line, prog)
        from . import pipeline  # after help and refusals: PyTorch and ONNX Runtime take seconds to import
    try:
        return pipeline.run(args)
    except KeyboardInterrupt:  # before or after the work, which answers it with a sentence of its own
        os.write(2, b"error: interrupted; what was finished is kept\n")
        return 130


def make_parser(prog: str) -> ArgumentParser:
    """Describe the command line."""
    from . import arguments

    return arguments.make_parser(prog)


def __getattr__(name: str) -> Any:
    """Import `export_module` when it is asked for: PyTorch takes seconds, and help is to come at once."""
    if name != "export_module":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .module import export_module

    return export_module


@contextmanager
def interrupt_ends_process() -> Iterator[None]:
    """While the block runs, have Ctrl-C end the process with a sentence and exit status 130, on the spot.

    KeyboardInterrupt would not do: C extensions that are being imported turn it into errors of their own. A process
    that ignores the signal, as one in a shell's background may, goes on ignoring it.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(_number: int, _frame: FrameType | None) -> None:
    os.write(2, b"error: interrupted before anything was begun\n")
    os._exit(130)
