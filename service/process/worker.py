"""One server's life, from settings to the exit code: alone, or as one of several under a supervisor."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import structlog

from .. import logs
from ..errors import StartError
from ..runtime.repository import Contents
from ..server import Server, SharedPort, running
from ..settings import Settings
from .control_socket import ControlSocket
from .messages import FAILED, READY
from .port import check_port
from .report_socket import ReportSocket
from .signals import WAKEUP_BYTES, ignore_signals, open_wakeup
from .start_summary import as_text, start_summary
from .worker_slot import WorkerSlot

CLOSE_S = 5.0
"""How long closing may take, when all that is in flight is answered or the grace period is over."""

EXIT_FAILED = 70
"""EX_SOFTWARE of sysexits.h."""

log = structlog.get_logger(__name__)


def run(settings: Settings, slot: WorkerSlot | None = None) -> int:
    """Serves until told to stop. Returns 0 if all was answered by then, 1 otherwise."""
    threading.excepthook = _end_with_thread
    with contextlib.nullcontext() if slot is None else slot.open_control_socket() as connection:
        signals = StopSignals(is_worker=connection is not None)
        control = None if connection is None else ControlSocket(connection, signals.hand_over, signals.supervisor_ended)
        try:
            with _exporting(settings, slot) as export:
                drained = _serve(settings, slot, control, signals, export)
        except StartError as error:
            if control is None:
                log.error("cannot start", reason=str(error))
            else:
                control.report(FAILED, reason=str(error))
            return 1
    log.info("stopped")
    ignore_signals()
    return 0 if drained else 1


Export = Callable[["Server"], contextlib.AbstractContextManager[object]]
"""Has a server's figures read, as long as the context lasts."""


@contextlib.contextmanager
def _exporting(settings: Settings, slot: WorkerSlot | None) -> Iterator[Export]:
    """Where the figures go: to the supervisor, or to our own port, which is taken at once. Raises StartError."""
    if slot is not None:
        with slot.open_report_socket() as connection:
            yield partial(_reporting, connection)
    elif not settings.metrics_port:
        yield lambda _: contextlib.nullcontext()
    else:
        from ..metrics.exporter import exporting

        with exporting(settings.metrics_host, settings.metrics_port, settings.tokens_file) as exporter:
            yield (
                lambda server: (
                    contextlib.nullcontext() if server.metrics is None else exporter.reading(server.metrics.snapshot)
                )
            )


@contextlib.contextmanager
def _reporting(connection: socket.socket, server: Server) -> Iterator[None]:
    """Reports to the supervisor, and has callers told the sums of all workers."""
    repository, metrics = server.repository, server.metrics
    with ReportSocket(connection, repository.report, None if metrics is None else metrics.snapshot) as reports:
        alone, repository.gather = repository.gather, reports.gather
        try:
            yield
        finally:
            repository.gather = alone


def _serve(
    settings: Settings, slot: WorkerSlot | None, control: ControlSocket | None, signals: "StopSignals", export: Export
) -> bool:
    """Start, service and stop; returns True if all was answered. Raises StartError."""
    started = time.monotonic()
    if control is None:
        check_port(settings.host, settings.port)
        if settings.http_port is not None:
            check_port(settings.host, settings.http_port)

    def admit(contents: Contents) -> None:
        if control is not None:
            control.await_admission(contents)
        signals.serves()

    with contextlib.ExitStack() as stack:
        shared = None if slot is None else SharedPort(slot.versions, slot.token_counts())
        server = stack.enter_context(running(settings, admit=admit, shared=shared))
        stack.enter_context(export(server))
        if control is None:
            signals.reload_by(server.control.reload)
        else:
            control.attach(server.control)
        log.info("ready", after_s=round(time.monotonic() - started, 3))
        if control is not None:
            control.report(READY, served=server.served_models())
        else:
            told = replace(settings, http_port=server.http_port)
            logs.tell("serving", start_summary(told, server.port, server.served_models()), as_text)
        signals.wait()
        delay_s = settings.drain_delay_s
        if not signals.stop:
            log.info("retiring", grace_s=settings.grace_s)
            server.hand_over(grace_s=settings.grace_s, abort=lambda: signals.stop)
            delay_s = 0.0  # load balancers have nothing to notice: the port is served as before
        log.info("draining", grace_s=settings.grace_s)
        drained = server.drain(delay_s=delay_s, grace_s=settings.grace_s)
        if not drained:
            log.error("requests were still in flight when the grace period ended")
        _end_within(CLOSE_S, 0 if drained else 1)
    return drained


def _end_with_thread(arguments: threading.ExceptHookArgs) -> None:
    """Ends the process with a thread that failed: what it served would wait for ever."""
    thread = arguments.thread.name if arguments.thread else "unknown"
    log.critical("a thread failed; the process ends", thread=thread, exc_info=arguments.exc_value)
    _end(EXIT_FAILED)


def _end_within(seconds: float, code: int) -> None:
    """Ends the process in the end: a run cannot be interrupted, and closing would wait for one that is not wanted."""
    timer = threading.Timer(seconds, _end, (code,))
    timer.daemon = True
    timer.start()


def _end(code: int) -> None:
    """Ends the process without the interpreter's own end, which may wait for ever."""
    logs.close()
    os._exit(code)


class StopSignals:
    """What the process was told: to stop by SIGTERM or SIGINT, or by its supervisor to hand over.

    A second signal ends a process at once, but not a worker: systemd signals all processes, so the supervisor's may be
    the second.
    """

    def __init__(self, *, is_worker: bool) -> None:
        self.stop = False
        self._is_worker = is_worker
        self._serves = False
        self._handed_over = False
        self._wakeup_read, self._wakeup_write = open_wakeup()  # a lock would miss a signal
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)
        self._reload: Callable[[], None] | None = None
        self._reload_asked = False
        if not is_worker:  # of workers, the supervisor
            signal.signal(signal.SIGHUP, self._receive_reload)

    def reload_by(self, reload: Callable[[], None]) -> None:
        """What SIGHUP does from now on, and did not do before."""
        self._reload = reload
        if self._reload_asked:
            reload()

    def serves(self) -> None:
        """From now on, there may be requests to be answered before the end."""
        self._serves = True

    def wait(self) -> None:
        """Blocks until there is an order."""
        while not (self.stop or self._handed_over):
            os.read(self._wakeup_read, WAKEUP_BYTES)

    def hand_over(self) -> None:
        """Another has the slot."""
        self._handed_over = True
        self._wake()

    def supervisor_ended(self) -> None:
        """Means stop: a worker does not outlive its supervisor."""
        if not self._serves:
            os._exit(0)
        self.stop = True
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: the main thread wakes in any case
            os.write(self._wakeup_write, b"\0")

    def _receive(self, number: int, _frame: object) -> None:
        if not self._serves:
            os._exit(0)  # a model that is being opened cannot be interrupted
        if self.stop and not self._is_worker:
            os._exit(128 + number)  # by ourselves: process 1 of a container cannot be ended by a signal's default
        self.stop = True

    def _receive_reload(self, _number: int, _frame: object) -> None:
        self._reload_asked = True
        if self._reload is not None:
            self._reload()
