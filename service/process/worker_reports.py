"""The supervisor's side of the workers' reports: it adds them up, and tells each worker what the others have done.

What a worker has reported stays in the sums when it has ended, however it ended.
"""

import asyncio
import json
import socket
from collections.abc import Coroutine, Iterable
from typing import TYPE_CHECKING, Any

from ..runtime.process_report import ProcessReport, merged_states

if TYPE_CHECKING:
    from ..metrics.supervisor import SupervisorMetrics

LIMIT_S = 0.25
"""How long a worker may take to report; then its last report counts."""
MAX_LINE_BYTES = 2**26
MAX_UNREAD_BYTES = 2**20
"""A worker that has so much to read is sent no more."""


class WorkerReports:
    """The reports of all workers."""

    def __init__(self, metrics: "SupervisorMetrics | None") -> None:
        """``metrics``: None where nothing reads them."""
        self.metrics = metrics
        self.open: set[ReportStream] = set()
        self.ended = ProcessReport()
        if metrics is not None:
            metrics.count_ready = lambda: sum(stream.serves for stream in self.open.copy())
        self._tasks: set[asyncio.Task[None]] = set()

    def open_stream(self) -> "ReportStream":
        """The line to a worker that is about to be started."""
        return ReportStream(self)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Does this while the loop runs."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def end(self, stream: "ReportStream") -> None:
        """Keeps what a worker counted; it has ended."""
        self.open.discard(stream)
        self.ended.merge_totals(stream.last.totals)
        if self.metrics is not None:
            self.metrics.end(stream)

    async def others(self, asker: "ReportStream") -> ProcessReport:
        """What all workers but one have done, and what those of them serve that have not been told to leave."""
        await _ask_all(self.open - {asker})
        others = self.open - {asker}  # some may have ended meanwhile
        result = ProcessReport(states=merged_states(one.last.states for one in others if one.serves and one.listens))
        result.merge_totals(self.ended.totals)
        for one in others:
            result.merge_totals(one.last.totals)
        return result


class ReportStream:
    """The supervisor's end of the line to one worker."""

    def __init__(self, reports: WorkerReports) -> None:
        self.last = ProcessReport()
        self.serves = False
        """True while it is ready and has its slot."""
        self.listens = False
        """True from its first report to its last: then it can be asked."""
        self._reports = reports
        self._ours, self.theirs = socket.socketpair()
        self._writer: asyncio.StreamWriter | None = None
        self._number = 0
        self._questions: dict[int, asyncio.Future[None]] = {}
        reports.open.add(self)
        reports.spawn(self._read())

    async def ask(self) -> None:
        """Waits for a report of now; returns without one if the worker cannot be asked, or ends."""
        if (
            not self.listens
            or self._writer is None
            or self._writer.transport.get_write_buffer_size() > MAX_UNREAD_BYTES
        ):
            return
        self._number += 1
        number, answered = self._number, asyncio.get_running_loop().create_future()
        self._questions[number] = answered
        self._send(question=number)
        try:
            await answered
        finally:
            del self._questions[number]

    async def _read(self) -> None:
        reader, self._writer = await asyncio.open_connection(sock=self._ours, limit=MAX_LINE_BYTES)
        try:
            while line := await reader.readline():
                self._receive(json.loads(line))
        except (OSError, ValueError):  # it died within a line
            pass
        finally:
            self._writer.close()
            self._reports.end(self)
            for answered in self._questions.values():
                if not answered.done():
                    answered.set_result(None)

    def _receive(self, fields: dict[str, Any]) -> None:
        self.last = ProcessReport.decode(fields["models"])
        self.listens = not fields.get("is_last")
        if "metrics" in fields and self._reports.metrics is not None:
            from ..metrics.snapshot import Snapshot

            self._reports.metrics.receive(self, Snapshot.decode(fields["metrics"]))
        answered = self._questions.get(fields.get("answers", 0))
        if answered is not None and not answered.done():
            answered.set_result(None)
        if "ask" in fields:
            self._reports.spawn(self._tell_others(fields["ask"]))

    async def _tell_others(self, number: int) -> None:
        others = await self._reports.others(self)
        if self._writer is not None and self._writer.transport.get_write_buffer_size() <= MAX_UNREAD_BYTES:
            self._send(ask=number, others=others.encode())

    def _send(self, **fields: Any) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(json.dumps(fields, separators=(",", ":")).encode() + b"\n")


async def _ask_all(streams: Iterable[ReportStream]) -> None:
    questions = [asyncio.ensure_future(stream.ask()) for stream in streams]
    if questions:
        _, late = await asyncio.wait(questions, timeout=LIMIT_S)
        for question in late:
            question.cancel()
