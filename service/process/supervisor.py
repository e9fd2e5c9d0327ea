"""Several worker processes on one port: starts, watches, restarts and renews them, and ends with them.

Each worker is the same command again, told by its environment which slot it has (worker_slot.py). The kernel spreads
connections over their listeners (SO_REUSEPORT); the supervisor itself never sees a request.

All workers serve the same files: each tells what it has opened before it listens, and is admitted if that is what the
others serve (model_agreement.py).
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from .. import logs
from ..access.shared_counts import CountColumns
from ..cpu import Share, divide
from ..errors import StartError
from ..settings import Settings
from .model_agreement import ModelAgreement
from .port import reserved_port
from .signals import handle_signals, ignore_signals
from .start_summary import as_text, start_summary
from .worker_process import Launch, WorkerProcess
from .worker_reports import WorkerReports

if TYPE_CHECKING:
    from ..metrics.supervisor import SupervisorMetrics

FIRST_DELAY_S = 0.1
"""After the first death in a row a worker is restarted so late; each time it is twice as long."""
STEADY_S = 10.0
"""A worker that has served so long is not in a crash loop: its next death is the first in a row."""
MOST_DELAY_S = 15.0
"""After which a worker is tried again at the latest."""
MAX_DEATHS = 5
"""So many deaths of one worker in a row are a crash loop, and the end of all."""
END_S = 10.0
"""How long workers may take to end beyond the times they are given for what is in flight."""
MOST_GENERATIONS = 4
"""Workers of one slot that may live at a time: those that drain, and the one that serves."""
PING_S = 1.0
"""Between two questions to each worker whether it lives."""

log = structlog.get_logger(__name__)


def run(settings: Settings, command: Sequence[str]) -> int:
    """Supervises until SIGTERM or SIGINT. Returns 0 if every worker then answered all it had, 1 otherwise.

    ``command`` starts a worker. SIGHUP renews the workers; a second SIGTERM or SIGINT ends all at once.
    """
    try:
        with (
            reserved_port(settings.host, settings.port) as port,
            _reserved_http_port(settings) as http_port,
            _exporting(settings) as metrics,
        ):
            return asyncio.run(_supervise(replace(settings, http_port=http_port), command, port, metrics))
    except StartError as error:
        log.error("cannot start", reason=str(error))
        return 1


def _reserved_http_port(settings: Settings) -> contextlib.AbstractContextManager[int | None]:
    """The workers' port of HTTP; None where there is none."""
    if settings.http_port is None:
        return contextlib.nullcontext()
    return reserved_port(settings.host, settings.http_port)


@contextlib.contextmanager
def _exporting(settings: Settings) -> Iterator["SupervisorMetrics | None"]:
    """The metrics of all workers, told on their port; None where there is none. Raises StartError."""
    if not settings.metrics_port:
        yield None
        return
    from ..metrics.exporter import exporting
    from ..metrics.supervisor import SupervisorMetrics

    metrics = SupervisorMetrics(settings.workers)
    address = settings.metrics_host, settings.metrics_port
    with exporting(*address, settings.tokens_file) as exporter, exporter.reading(metrics.snapshot):
        yield metrics


async def _supervise(settings: Settings, command: Sequence[str], port: int, metrics: "SupervisorMetrics | None") -> int:
    supervisor = _Supervisor(settings, command, port, divide(settings.workers), metrics)
    handle_signals(
        {number: partial(supervisor.stop, number) for number in (signal.SIGTERM, signal.SIGINT)}
        | {signal.SIGHUP: supervisor.rolling_restart}
    )
    try:
        return await supervisor.end
    finally:
        ignore_signals()


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
        self._reports = WorkerReports(metrics)
        self._columns = None if settings.tokens_file is None else CountColumns(MOST_GENERATIONS * len(shares))
        self.end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """The exit code, when all is over."""
        self._settings = settings
        self._command = command
        self._port = port
        self._shares = shares
        self._deaths = [0] * len(shares)  # in a row, for each slot
        self._alive: set[WorkerProcess] = set()
        self._begun = False
        self._stopping = False
        self._restart_asked = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._agreement = ModelAgreement(settings)
        self._changing = asyncio.Lock()  # one change of models or workers at a time
        self._workers = [self._start(number) for number in range(len(shares))]
        self._spawn(self._run())
        self._spawn(self._ping())
        if settings.model_control == "poll":
            self._spawn(self._poll())

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

    def stop(self, number: signal.Signals) -> None:
        """All workers drain and end; told twice, they end at once, and we too."""
        if self._stopping:
            for worker in self._alive:
                worker.signal(signal.SIGKILL)
            os._exit(128 + number)
        self._stopping = True
        self._spawn(self._stop_workers(signal.SIGTERM, 0))  # first: the log's reader may have gone
        log.info("stopping", signal=number.name)

    def rolling_restart(self) -> None:
        """Each worker gives its slot to a new one."""
        self._restart_asked.set()

    async def _run(self) -> None:
        """All workers become ready, or none stays; then they are renewed whenever it is asked for."""
        began = time.monotonic()
        if not await self._all_reach(lambda worker: worker.loaded):
            return
        if reason := self._agreement.disagreement(self._workers):
            log.error("cannot start", reason=reason)
            await self._stop_workers(signal.SIGKILL, 1)
            return
        self._agreement.conclude(self._workers[0].models)
        for worker in self._workers:
            worker.admit()
        if not await self._all_reach(lambda worker: worker.ready):
            return
        self._begun = True
        after_s = round(time.monotonic() - began, 3)
        address = f"{self._settings.host}:{self._port}"
        log.info("all workers are ready", address=address, workers=len(self._workers), after_s=after_s)
        logs.tell("serving", start_summary(self._settings, self._port, self._workers[0].served), as_text)
        while True:
            await self._restart_asked.wait()
            self._restart_asked.clear()
            async with self._changing:
                await self._replace_workers()

    async def _all_reach(self, stage: Callable[[WorkerProcess], Awaitable[None]]) -> bool:
        """Waits until all workers have come so far; False if one cannot, and all are ended."""
        for reached in asyncio.as_completed([stage(worker) for worker in self._workers]):
            await reached
            if self._stopping:
                return False
            if failed := _first_failed(self._workers):
                log.error("cannot start", reason=failed.failure)
                await self._stop_workers(signal.SIGKILL, 1)
                return False
        return True

    async def _replace_workers(self) -> None:
        """All workers by new ones, or none: one after another opens its models, all listen, then the old leave."""
        log.info("renewing the workers")
        fresh = await self._start_fresh()
        lost = {} if self._settings.reload_lossy else self._agreement.lost(fresh[-1])
        reason = self._reason_against(fresh, lost)
        if not reason:
            for worker in fresh:
                worker.admit()
            for worker in fresh:
                await self._reach(worker, worker.ready)
            reason = self._reason_against(fresh, {})
        if reason or self._stopping:
            self._dismiss(fresh, reason, lost)
            return
        self._agreement.conclude(fresh[0].models)
        old, self._workers = self._workers, fresh
        self._deaths = [0] * len(fresh)
        for worker in old:
            worker.hand_over()
        log.info("the workers are renewed", workers=len(fresh))

    async def _start_fresh(self) -> list[WorkerProcess]:
        """A new worker for each slot; one after another has opened its models, up to the first that cannot."""
        fresh: list[WorkerProcess] = []
        for number in range(len(self._shares)):
            fresh.append(self._start(number))
            await self._reach(fresh[-1], fresh[-1].loaded)
            if self._stopping or fresh[-1].failure:
                break
        return fresh

    def _dismiss(self, fresh: Sequence[WorkerProcess], reason: str, lost: Mapping[str, str]) -> None:
        if not self._stopping:
            log.error("the workers are not renewed, and go on serving", reason=reason)
            for worker in self._workers:
                worker.tell_refusal(reason, lost)
        for worker in fresh:
            worker.hand_over()

    def _reason_against(self, fresh: Sequence[WorkerProcess], lost: Mapping[str, str]) -> str:
        """Why these cannot take over; empty if they can."""
        if failed := _first_failed(fresh):
            return failed.failure
        if reason := self._agreement.disagreement(fresh):
            return reason
        if not lost:
            return ""
        told = "; ".join(f"'{name}' would be lost: {why}" for name, why in sorted(lost.items()))
        return f"{told}. --reload-lossy lets a reload lose models"

    async def _poll(self) -> None:
        """Has the workers make each change of the folder."""
        while True:
            await asyncio.sleep(self._settings.model_poll_s)
            if self._begun and not self._stopping and await asyncio.to_thread(self._agreement.folder_changed):
                await self._change("reload", "")

    async def _change(self, order: str, model: str, asker: WorkerProcess | None = None, number: int = 0) -> None:
        """Has all workers make one change of their models, or none."""
        async with self._changing:
            workers = self._workers.copy()
            error = await self._agreement.change(workers, order, model)
            for worker in workers:
                if worker.hangs:
                    self._spawn(self._replace(worker))
            if error:
                log.error("the models are not renewed, and go on serving", reason=error)
            else:
                log.info("the models of all workers are renewed", change=order, model=model)
            if asker is not None:
                asker.tell_done(number, error)

    def _start(self, number: int, versions: tuple[str, ...] | None = None) -> WorkerProcess:
        launch = Launch(
            self._command,
            number,
            self._port,
            self._settings.http_port,
            self._shares[number],
            self._agreement.names,
            versions,
            self._reports.open_stream(),
            None if self._columns is None else self._columns.lend(),
        )
        worker = WorkerProcess(launch, self._on_ask)
        self._alive.add(worker)
        self._spawn(self._watch(worker))
        return worker

    def _on_ask(self, worker: WorkerProcess, order: str, model: str, number: int) -> None:
        self._spawn(self._change(order, model, worker, number))

    async def _watch(self, worker: WorkerProcess) -> None:
        """If it dies in its slot, another gets the slot after a while.

        If that happens again and again while no other serves, all end.
        """
        await worker.ended
        self._alive.discard(worker)
        if self._columns is not None and worker.column is not None:
            self._columns.give_back(worker.column)
        number = worker.number
        if self._stopping or not self._begun or self._workers[number] is not worker:
            return
        if self._metrics is not None:
            self._metrics.deaths += 1
        self._deaths[number] = 1 if worker.served_s >= STEADY_S else self._deaths[number] + 1
        deaths = self._deaths[number]
        others_serve = any(other.has_served for other in self._alive)
        if deaths >= MAX_DEATHS and (worker.has_served or not others_serve):
            log.error(
                "worker died too often",
                worker=number,
                reason=f"{worker.failure}; it was the {deaths}th death in a row after less than {STEADY_S:g} s "
                "of service, so all workers end",
            )
            await self._stop_workers(signal.SIGTERM, 1)
            return
        delay_s = min(FIRST_DELAY_S * 2 ** (deaths - 1), MOST_DELAY_S)
        log.error("worker died", worker=number, reason=worker.failure, restart_in_s=delay_s)
        await asyncio.sleep(delay_s)
        async with self._changing:
            if not self._stopping and self._workers[number] is worker:
                self._workers[number] = self._start(number, self._agreement.versions)
                await self._admit(self._workers[number])

    async def _admit(self, worker: WorkerProcess) -> None:
        """Lets a successor serve, if it has opened what the others serve."""
        await self._reach(worker, worker.loaded)
        if worker.failure:
            return
        if difference := self._agreement.difference(worker):
            worker.failure = (
                f"it would serve other files than the others do ({difference}), which changed in the folder. "
                "It is tried again; SIGHUP has all serve what is there now"
            )
            worker.signal(signal.SIGTERM)
            return
        worker.admit()
        await self._reach(worker, worker.ready)

    async def _reach(self, worker: WorkerProcess, stage: "asyncio.Future[None]") -> None:
        """Waits until a worker has come so far, or has failed to; one that takes too long is ended."""
        await asyncio.wait([stage], timeout=self._settings.model_load_timeout_s)
        if not stage.done():
            limit_s = self._settings.model_load_timeout_s
            worker.failure = f"worker {worker.number} was not ready within {limit_s:g} s (--model-load-timeout-s)"
            worker.signal(signal.SIGKILL)
            await worker.ended

    async def _replace(self, worker: WorkerProcess) -> None:
        """Gives the slot of a worker that hangs to one that has opened what the others serve."""
        number = worker.number
        async with self._changing:
            if self._stopping or self._workers[number] is not worker or worker.ended.done():
                return
            log.warning("worker hangs, and is replaced", worker=number)
            fresh = self._start(number, self._agreement.versions)
            await self._admit(fresh)
            if fresh.failure or self._stopping:
                log.error("worker is not replaced, and goes on serving", worker=number, reason=fresh.failure)
                return
            self._workers[number] = fresh
            worker.hand_over()
        await asyncio.wait([worker.ended], timeout=self._settings.grace_s + END_S)
        if not worker.ended.done():
            worker.signal(signal.SIGKILL)

    async def _stop_workers(self, number: signal.Signals, code: int) -> None:
        """Ends all workers; one that does not end in time is killed."""
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


def _first_failed(workers: Sequence[WorkerProcess]) -> WorkerProcess | None:
    return next((worker for worker in workers if worker.failure), None)
