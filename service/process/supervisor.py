"""Several worker processes on one port: starts, watches, restarts and renews them, and ends with them.

Each worker is the same command again, told by its environment which slot it has (worker_slot.py). The kernel spreads
connections over their listeners (SO_REUSEPORT); the supervisor itself never sees a request.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Coroutine, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import structlog

from service.cpu import Share, divide
from service.errors import StartError
from service.process.worker_slot import HAND_OVER, MAX_MESSAGE_BYTES, PING, PONG, READY, WorkerSlot
from service.settings import Settings

if TYPE_CHECKING:
    from service.metrics.supervisor import SupervisorMetrics

FIRST_DELAY_S = 0.1
"""After the first death in a row a worker is restarted so late; each time it is twice as long."""
STEADY_S = 10.0
"""A worker that has served so long is not in a crash loop: its next death is the first in a row."""
MAX_DEATHS = 5
"""So many deaths of one worker in a row are a crash loop, and the end of all."""
END_S = 10.0
"""How long workers may take to end beyond the times they are given for what is in flight."""

PING_S = 1.0
"""Between two questions to each worker whether it lives."""

log = structlog.get_logger(__name__)


def run(settings: Settings, command: Sequence[str]) -> int:
    """Supervises until SIGTERM or SIGINT. Returns 0 if every worker then answered all it had, 1 otherwise.

    ``command`` starts a worker. SIGHUP renews the workers; a second SIGTERM or SIGINT ends all at once.
    """
    try:
        with _reserved(settings.host, settings.port) as port, _exporting(settings) as metrics:
            return asyncio.run(_supervise(settings, command, port, metrics))
    except StartError as error:
        log.error("cannot start", reason=str(error))
        return 1


@contextlib.contextmanager
def _reserved(host: str, port: int) -> Iterator[int]:
    """A port that nobody else serves, bound for our workers without listening. Raises StartError.

    SO_REUSEPORT comes after binding: before, it would let us share the port of another server of this user.
    SO_REUSEADDR overlooks connections that linger from an earlier server, and then would let others overlook us.
    """
    with contextlib.ExitStack() as stack:
        try:
            found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, kind, protocol, _, address in found:
                reserved = stack.enter_context(socket.socket(family, kind, protocol))
                reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                reserved.bind((address[0], port, *address[2:]))
                reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
                reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                port = reserved.getsockname()[1]
        except OSError as error:
            raise StartError(f"cannot listen on {host}:{port}: {error}") from error
        yield port


@contextlib.contextmanager
def _exporting(settings: Settings) -> Iterator["SupervisorMetrics | None"]:
    """The metrics of all workers, told on their port; None where there is none. Raises StartError."""
    if not settings.metrics_port:
        yield None
        return
    from service.metrics.exporter import exporting
    from service.metrics.supervisor import SupervisorMetrics

    metrics = SupervisorMetrics(settings.workers)
    with exporting(settings.metrics_host, settings.metrics_port) as exporter, exporter.reading(metrics.snapshot):
        yield metrics


async def _supervise(settings: Settings, command: Sequence[str], port: int, metrics: "SupervisorMetrics | None") -> int:
    supervisor = _Supervisor(settings, command, port, divide(settings.workers), metrics)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop, number)
    loop.add_signal_handler(signal.SIGHUP, supervisor.rolling_restart)
    return await supervisor.end


class _Supervisor:
    """Who has which slot; all that happens to workers over time is a task of its own."""

    def __init__(
        self,
        settings: Settings,
        command: Sequence[str],
        port: int,
        shares: Sequence[Share],
        metrics: "SupervisorMetrics | None",
    ) -> None:
        self._metrics = metrics
        self.end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """The exit code, when all is over."""
        self._settings = settings
        self._command = command
        self._port = port
        self._shares = shares
        self._deaths = [0] * len(shares)  # in a row, for each slot
        self._alive: set[_Worker] = set()
        self._begun = False
        self._stopping = False
        self._restart_asked = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._workers = [self._start(number) for number in range(len(shares))]
        self._spawn(self._run())
        self._spawn(self._ping())

    async def _ping(self) -> None:
        """Ends workers that have not answered for too long: all their threads stand still."""
        limit_s = self._settings.watchdog_s
        while limit_s:
            await asyncio.sleep(PING_S)
            for worker in self._alive:
                if worker.silent_s > limit_s:
                    log.error("worker does not answer, and is killed", worker=worker.number, for_s=worker.silent_s)
                    worker.signal(signal.SIGKILL)
                worker.ping()

    def stop(self, number: int) -> None:
        """All workers drain and end; told twice, they end at once, and we too."""
        if self._stopping:
            for worker in self._alive:
                worker.signal(signal.SIGKILL)
            os._exit(128 + number)
        self._stopping = True
        self._spawn(self._stop_workers(signal.SIGTERM, 0))  # first: there may be nobody left to take the log
        log.info("stopping", signal=signal.Signals(number).name)

    def rolling_restart(self) -> None:
        """Each worker gives its slot to a new one."""
        self._restart_asked.set()

    async def _run(self) -> None:
        """All workers become ready, or none stays; then they are renewed whenever somebody asks."""
        began = time.monotonic()
        for message in asyncio.as_completed([worker.message for worker in self._workers]):
            await message
            if self._stopping:
                return
            if failed := _first_failed(self._workers):
                log.error("cannot start", reason=failed.failure)
                await self._stop_workers(signal.SIGKILL, 1)
                return
        self._begun = True
        after_s = round(time.monotonic() - began, 3)
        address = f"{self._settings.host}:{self._port}"
        log.info("all workers are ready", address=address, workers=len(self._workers), after_s=after_s)
        while True:
            await self._restart_asked.wait()
            self._restart_asked.clear()
            await self._replace_workers()

    async def _replace_workers(self) -> None:
        """All workers by new ones, or none: one after another becomes ready, then the old leave together."""
        log.info("renewing the workers")
        fresh: list[_Worker] = []
        for number in range(len(self._shares)):
            if self._stopping:
                return
            fresh.append(self._start(number))
            await fresh[-1].message
            if failed := _first_failed(fresh):
                if not self._stopping:
                    log.error("the workers are not renewed, and go on serving", reason=failed.failure)
                for worker in fresh:
                    worker.hand_over()
                return
        old, self._workers = self._workers, fresh
        self._deaths = [0] * len(fresh)
        for worker in old:
            worker.hand_over()
        log.info("the workers are renewed", workers=len(fresh))

    def _start(self, number: int) -> "_Worker":
        worker = _Worker(self._command, number, self._port, self._shares[number], self._metrics)
        self._alive.add(worker)
        self._spawn(self._watch(worker))
        return worker

    async def _watch(self, worker: "_Worker") -> None:
        """If it dies in its slot, another gets the slot after a while; if that happens again and again, all end."""
        await worker.ended
        self._alive.discard(worker)
        number = worker.number
        if self._stopping or not self._begun or self._workers[number] is not worker:
            return
        if self._metrics is not None:
            self._metrics.deaths += 1
        self._deaths[number] = 1 if worker.served_s >= STEADY_S else self._deaths[number] + 1
        if self._deaths[number] == MAX_DEATHS:
            log.error(
                "worker died too often",
                worker=number,
                reason=f"{worker.failure}; it was the {MAX_DEATHS}th death in a row after less than {STEADY_S:g} s "
                "of service, so all workers end",
            )
            await self._stop_workers(signal.SIGTERM, 1)
            return
        delay_s = FIRST_DELAY_S * 2 ** (self._deaths[number] - 1)
        log.error("worker died", worker=number, reason=worker.failure, restart_in_s=delay_s)
        await asyncio.sleep(delay_s)
        if not self._stopping and self._workers[number] is worker:
            self._workers[number] = self._start(number)

    async def _stop_workers(self, number: signal.Signals, code: int) -> None:
        """Ends all workers; who does not end in time is made to."""
        self._stopping = True
        workers = list(self._alive)
        for worker in workers:
            worker.signal(number)
        if workers:
            allowed_s = self._settings.drain_delay_s + self._settings.grace_s + END_S
            _, late = await asyncio.wait([worker.ended for worker in workers], timeout=allowed_s)
            if late:
                for worker in workers:
                    worker.signal(signal.SIGKILL)
                await asyncio.wait(late)
        drained = all(worker.ended.result() == 0 for worker in workers if worker.has_served)
        self.end.set_result(code if drained else 1)
        log.info("stopped")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not self.end.done():
            self.end.set_exception(error)  # a fault of ours: nothing is watched any more, so all ends


class _Worker:
    """One process, and what is known of it."""

    def __init__(
        self, command: Sequence[str], number: int, port: int, share: Share, metrics: "SupervisorMetrics | None"
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.number = number
        self.message: asyncio.Future[None] = self._loop.create_future()
        """Done when it is ready, or has failed to be."""
        self.ended: asyncio.Future[int] = self._loop.create_future()
        """Its exit status, or minus the number of the signal that ended it."""
        self.failure = ""
        """Why it does not serve, or not any more."""
        self._ready_at: float | None = None
        self._heard_at = 0.0
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._reports = None if metrics is None else metrics.open_reports(self._loop)
        with theirs, contextlib.nullcontext() if self._reports is None else self._reports.sender as sender:
            metrics_fd = -1 if sender is None else sender.fileno()
            slot = WorkerSlot(number, port, share.threads, share.cores, theirs.fileno(), metrics_fd)
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                command,
                env=slot.environment(),
                pass_fds=[number for number in (slot.control_fd, slot.metrics_fd) if number >= 0],
                process_group=0,  # a terminal's Ctrl-C is for the supervisor
            )
        self._control.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self._loop.add_reader(self._control, self._on_message)
        self._handle = os.pidfd_open(self._process.pid)
        self._loop.add_reader(self._handle, self._on_exit)

    @property
    def has_served(self) -> bool:
        """Whether it has ever been ready."""
        return self._ready_at is not None

    @property
    def served_s(self) -> float:
        """For how long it has been ready."""
        return 0.0 if self._ready_at is None else time.monotonic() - self._ready_at

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        self._process.send_signal(number)

    @property
    def silent_s(self) -> float:
        """For how long it has not answered, since it became ready, in seconds."""
        return 0.0 if self._ready_at is None else time.monotonic() - self._heard_at

    def ping(self) -> None:
        """Asks for a sign of life."""
        with contextlib.suppress(OSError):  # it has ended, or reads nothing
            self._control.send(PING)

    def hand_over(self) -> None:
        """Has it leave its slot, without losing a request."""
        with contextlib.suppress(OSError):  # it has ended
            self._control.send(HAND_OVER)

    def _on_message(self) -> None:
        try:
            message = self._control.recv(MAX_MESSAGE_BYTES).decode()
        except BlockingIOError:
            return
        except OSError:
            message = ""
        if not message:
            self._loop.remove_reader(self._control)
            return
        self._heard_at = time.monotonic()
        if message == PONG:
            return
        if message == READY:
            self._ready_at = self._heard_at
            if self._reports is not None:
                self._reports.ready = True
        else:
            self.failure = message
        self.message.set_result(None)

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._handle)
        os.close(self._handle)
        status = self._process.wait()
        self._on_message()  # its last message may be there still
        self._loop.remove_reader(self._control)
        self._control.close()
        if self._reports is not None:
            self._reports.close()
        how = f"ended with status {status}" if status >= 0 else f"was ended by {signal.Signals(-status).name}"
        self.failure = self.failure or f"worker {self.number} {how}"
        if not self.message.done():
            self.message.set_result(None)
        self.ended.set_result(status)


def _first_failed(workers: Sequence[_Worker]) -> _Worker | None:
    return next((worker for worker in workers if worker.failure), None)
