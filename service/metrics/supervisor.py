"""The metrics of a supervisor: the sums of its workers' reports, and what it knows of the workers."""

import asyncio
import socket

from .reports import WorkerReports
from .snapshot import Snapshot

READ_BYTES = 2**18


class SupervisorMetrics:
    """Adds up what the workers report."""

    def __init__(self, workers: int) -> None:
        """``workers``: how many there should be."""
        self.deaths = 0
        """Workers that have died."""
        self.reports = WorkerReports()
        self.open: set[ReportSocket] = set()
        self._workers = workers

    def open_reports(self, loop: asyncio.AbstractEventLoop) -> "ReportSocket":
        """Makes the socket for one worker's reports; they are read by the loop."""
        return ReportSocket(self, loop)

    def snapshot(self) -> Snapshot:
        """Reads all values; any thread may ask."""
        result = self.reports.merged()
        result.set("convserve_workers", self._workers, "wanted")
        result.set("convserve_workers", sum(reports.ready for reports in self.open.copy()), "ready")
        result.set("convserve_worker_deaths_total", self.deaths)
        if ("convserve_ready", ()) not in result.values:
            result.set("convserve_ready", 0)
        return result


class ReportSocket:
    """The supervisor's end of one worker's reports."""

    def __init__(self, metrics: SupervisorMetrics, loop: asyncio.AbstractEventLoop) -> None:
        self.ready = False
        """True once the worker has been ready."""
        self._metrics = metrics
        self._loop = loop
        self._receiver, self.sender = socket.socketpair()
        self._receiver.settimeout(0)
        loop.add_reader(self._receiver, self._receive)
        metrics.open.add(self)

    def close(self) -> None:
        """Reads what is left; the worker has ended."""
        while self._receive():
            continue
        self._loop.remove_reader(self._receiver)
        self._receiver.close()
        self._metrics.open.discard(self)
        self._metrics.reports.end(self)

    def _receive(self) -> bool:
        """Reads what has come; returns False where there is nothing now."""
        try:
            data = self._receiver.recv(READ_BYTES)
        except OSError:
            return False
        if not data:
            self._loop.remove_reader(self._receiver)
            return False
        self._metrics.reports.receive(self, data)
        return True
