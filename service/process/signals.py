"""Signals that end or renew a process, up to its last moment.

The interpreter, and asyncio's loop before it, set the signals that they handle back to the default when they close. One
that came then would end the process as if it had not drained; so both are told to ignore them first.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Mapping

HANDLED = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
WAKEUP_BYTES = 64


def ignore_signals() -> None:
    """All has ended: what comes now is too late, and leaves the exit code as it is."""
    for number in HANDLED:
        signal.signal(number, signal.SIG_IGN)


def handle_signals(callbacks: Mapping[signal.Signals, Callable[[], None]]) -> None:
    """Has the running loop call these, until ``ignore_signals``."""
    loop = asyncio.get_running_loop()
    for number, callback in callbacks.items():
        signal.signal(number, _calling(loop, callback))
    reading, _ = open_wakeup()
    loop.add_reader(reading, os.read, reading, WAKEUP_BYTES)


def open_wakeup() -> tuple[int, int]:
    """Returns a pipe that a signal writes to as it comes, so that a wait for its other end cannot begin too late."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    return reading, writing


def _calling(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> Callable[[int, object], None]:
    def receive(_number: int, _frame: object) -> None:
        loop.call_soon_threadsafe(callback)

    return receive
