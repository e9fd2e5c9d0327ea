"""One server's life, from settings to the exit code: alone, or as one of several under a supervisor."""

import contextlib
import os
import signal
import socket
import threading
import time
from queue import SimpleQueue

import structlog

from service.errors import StartError
from service.process.worker_slot import READY, RETIRE, Place
from service.server import running
from service.settings import Settings

CLOSE_S = 5.0
"""How long closing may take, when all that is in flight is answered or the grace period is over."""

log = structlog.get_logger(__name__)


def run(settings: Settings, place: Place | None = None) -> int:
    """Serves until told to stop. Returns 0 if all was answered by then, 1 otherwise."""
    with contextlib.nullcontext() if place is None else place.open_line() as line:
        orders = _Orders(line)
        try:
            drained = _serve(settings, line, orders)
        except StartError as error:
            if line is None:
                log.error("cannot start", reason=str(error))
            _say(line, str(error))
            return 1
    log.info("stopped")
    return 0 if drained else 1


def _serve(settings: Settings, line: socket.socket | None, orders: "_Orders") -> bool:
    """Start, service and stop; whether all was answered. Raises StartError."""
    started = time.monotonic()
    with running(settings, reuse_port=line is not None) as server:
        log.info("ready", after_s=round(time.monotonic() - started, 3))
        _say(line, READY)
        orders.wait()
        delay_s = settings.drain_delay_s
        if not orders.stop:
            log.info("retiring", grace_s=settings.grace_s)
            server.retire(grace_s=settings.grace_s, hurried=lambda: orders.stop)
            delay_s = 0.0  # load balancers have nothing to notice: the port is served as before
        log.info("draining", grace_s=settings.grace_s)
        drained = server.drain(delay_s=delay_s, grace_s=settings.grace_s)
        if not drained:
            log.error("requests were still in flight when the grace period ended")
        _end_within(CLOSE_S, 0 if drained else 1)
    return drained


def _say(line: socket.socket | None, word: str) -> None:
    if line is not None:
        with contextlib.suppress(OSError):  # the supervisor has ended, which the line's end will tell
            line.sendall(word.encode())


def _end_within(seconds: float, code: int) -> None:
    """Ends the process in the end: a run cannot be interrupted, and closing would wait for one nobody waits for."""
    timer = threading.Timer(seconds, os._exit, (code,))
    timer.daemon = True
    timer.start()


class _Orders:
    """What the process was told: to stop by SIGTERM or SIGINT, or on the line to retire.

    The line's end means stop: a worker does not outlive its supervisor. A second signal ends a process at once,
    but not a worker: the first can come twice, from the supervisor and from who signals all processes, systemd say.
    """

    def __init__(self, line: socket.socket | None) -> None:
        self.stop = False
        self._line = line
        self._orders: SimpleQueue[None] = SimpleQueue()  # may be put to by a signal that interrupts its get
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)
        if line is not None:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the supervisor's to act on
            threading.Thread(target=self._listen, args=(line,), name="line", daemon=True).start()

    def wait(self) -> None:
        """Blocks until there is an order."""
        self._orders.get()

    def _receive(self, number: int, _frame: object) -> None:
        if self.stop and self._line is None:
            os._exit(128 + number)  # by ourselves: process 1 of a container cannot be ended by a signal's default
        self.stop = True
        self._orders.put(None)

    def _listen(self, line: socket.socket) -> None:
        while line.recv(len(RETIRE)):
            self._orders.put(None)
        self.stop = True
        self._orders.put(None)
