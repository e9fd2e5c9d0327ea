"""Ctrl-C while libraries are being imported: that takes seconds, nothing is lost by it, and no traceback is due."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def ends_at_once() -> Iterator[None]:
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
