"""``python -m service``: settings → run until a signal → drain → exit."""

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence

import structlog
from pydantic import ValidationError
from pydantic_settings import CliApp

from service import logs
from service.errors import StartError
from service.server import running
from service.settings import Settings

CLOSE_S = 5.0
"""How long closing may take, when all that is in flight is answered or the grace period is over."""

log = structlog.get_logger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the server. Returns 0 after SIGTERM or SIGINT with all answered, 1 otherwise, 2 for bad settings."""
    try:
        settings = CliApp.run(Settings, cli_args=None if arguments is None else list(arguments))
    except ValidationError as error:
        for problem in error.errors():
            option = "--" + "-".join(str(part) for part in problem["loc"]).replace("_", "-") if problem["loc"] else ""
            print(f"python -m service: {option} {problem['msg']}".replace("  ", " "), file=sys.stderr)  # noqa: T201 - no log yet
        return 2
    logs.configure(settings.log_format, settings.log_level)
    signals = _Signals()
    started = time.monotonic()
    try:
        with running(settings) as server:
            log.info("ready", after_s=round(time.monotonic() - started, 3))
            signals.wait()
            log.info("draining", grace_s=settings.grace_s)
            drained = server.drain(delay_s=settings.drain_delay_s, grace_s=settings.grace_s)
            if not drained:
                log.error("requests were still in flight when the grace period ended")
            _end_within(CLOSE_S, 0 if drained else 1)
    except StartError as error:
        log.error("cannot start", reason=str(error))
        return 1
    log.info("stopped")
    return 0 if drained else 1


def _end_within(seconds: float, code: int) -> None:
    """Ends the process in the end: a run cannot be interrupted, and closing would wait for one nobody waits for."""
    timer = threading.Timer(seconds, os._exit, (code,))
    timer.daemon = True
    timer.start()


class _Signals:
    """Waits for the first SIGTERM or SIGINT; a second one ends the process at once."""

    def __init__(self) -> None:
        self._received = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def wait(self) -> None:
        """Blocks until a signal has come."""
        self._received.wait()

    def _receive(self, number: int, _frame: object) -> None:
        if self._received.is_set():
            os._exit(128 + number)  # by ourselves: process 1 of a container cannot be ended by a signal's default
        self._received.set()


if __name__ == "__main__":
    sys.exit(main())
