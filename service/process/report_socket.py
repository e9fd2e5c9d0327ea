"""A worker's reports to its supervisor: what it has counted and serves, and the sums of all workers for its callers.

Lines of JSON go both ways. A thread of its own sends and takes them, so that a question never makes its thread wait.
"""

import json
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import structlog

from ..runtime.process_report import ProcessReport, merged_states

if TYPE_CHECKING:
    from ..metrics.snapshot import Snapshot

PERIOD_S = 1.0
LIMIT_S = 0.5
"""How long a caller waits for the other workers' figures. Then the last ones that were told count."""
LAST_S = 2.0
"""How long the supervisor may take to read the last report."""
READ_BYTES = 2**18
WAKEUP_BYTES = 8

Done = Callable[[ProcessReport], None]

log = structlog.get_logger(__name__)


class ReportSocket:
    """A context manager: within it, reports are made once a second, when they are asked for, and on leaving."""

    def __init__(
        self,
        connection: socket.socket,
        models: Callable[[], ProcessReport],
        metrics: "Callable[[], Snapshot] | None" = None,
    ) -> None:
        """``models`` and ``metrics`` are asked for this worker's own; without ``metrics``, they are not reported."""
        self._connection = connection
        connection.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self._models = models
        self._metrics = metrics
        self._unsent = bytearray()
        self._unread = b""
        self._last_sent = b""
        self._waiting: deque[Done] = deque()
        self._asked: list[Done] = []  # what the question under way will answer
        self._number, self._ask_ends, self._own = 0, 0.0, ProcessReport()
        self._others = ProcessReport()
        self._connected = True
        self._stopped = False
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="reports", daemon=True)

    def __enter__(self) -> Self:
        """Begins to report."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Sends the last report; later questions get this worker's own figures."""
        self._stopped = True
        os.eventfd_write(self._wakeup, 1)
        self._thread.join()
        self._connection.close()

    def gather(self, done: Done) -> None:
        """Calls back with the sums of all workers, from another thread; never waits."""
        self._waiting.append(done)
        os.eventfd_write(self._wakeup, 1)

    def _run(self) -> None:
        report_at = 0.0
        while not self._stopped:
            now = time.monotonic()
            if now >= report_at:
                report_at = now + PERIOD_S
                self._report(with_metrics=True)
            if self._asked and now >= self._ask_ends:
                self._answer_alone()
            if self._waiting and not self._asked:
                self._ask()
            self._await_something(min(report_at, self._ask_ends if self._asked else report_at) - time.monotonic())
        self._asked.extend(self._waiting)
        self._answer_alone()
        self._report(with_metrics=True, is_last=True)
        ends = time.monotonic() + LAST_S
        while self._unsent and self._connected and time.monotonic() < ends:
            self._await_something(ends - time.monotonic())

    def _await_something(self, timeout_s: float) -> None:
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        if self._connected:
            poll.register(self._connection, select.POLLIN | (select.POLLOUT if self._unsent else 0))
        for descriptor, events in poll.poll(max(0.0, timeout_s) * 1000):
            if descriptor == self._wakeup:
                os.eventfd_read(self._wakeup)
                continue
            if events & select.POLLOUT:
                self._send()
            if events & ~select.POLLOUT:
                self._receive()

    def _ask(self) -> None:
        """Asks the supervisor for the others' figures, for all questions so far."""
        while self._waiting:
            self._asked.append(self._waiting.popleft())
        self._number += 1
        if self._unsent or not self._connected:  # the supervisor reads nothing
            self._answer_alone()
            return
        self._own = self._models()
        self._ask_ends = time.monotonic() + LIMIT_S
        self._write(ask=self._number, models=self._own.encode())

    def _answer_alone(self) -> None:
        """Answers without the supervisor: with what was last told of the others' figures, and our own index."""
        own = self._models()
        own.merge_totals(self._others.totals)
        self._answer(own)

    def _answer(self, told: ProcessReport) -> None:
        asked, self._asked = self._asked, []
        for done in asked:
            try:
                done(told)
            except Exception:
                log.exception("a report was not told")

    def _report(self, *, with_metrics: bool = False, **fields: Any) -> None:
        if self._unsent:  # the supervisor is behind
            return
        if with_metrics and self._metrics is not None:
            fields["metrics"] = self._metrics().encode()
        self._write(models=self._models().encode(), **fields)

    def _write(self, **fields: Any) -> None:
        line = json.dumps(fields, separators=(",", ":")).encode() + b"\n"
        if line == self._last_sent or not self._connected:
            return
        self._last_sent = line
        self._unsent += line
        self._send()

    def _send(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: self._connection.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError:
            self._connected = False

    def _receive(self) -> None:
        try:
            data = self._connection.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._connected = False  # the supervisor has ended
            return
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            fields = json.loads(line)
            if "question" in fields:
                self._report(answers=fields["question"])
            elif fields["ask"] == self._number:
                self._others = ProcessReport.decode(fields["others"])
                self._own.merge_totals(self._others.totals)
                self._own.states = merged_states([self._own.states, *filter(None, [self._others.states])])
                self._answer(self._own)
