"""An open loop sends requests at times of their own, however many are still on their way.

Arrivals are drawn beforehand, and the latency of a request counts from its arrival as drawn. A request that is sent
late, because this process, the connection or the server held it up, has been waiting all the same (Schroeder, Wierman
and Harchol-Balter, "Open versus closed: a cautionary tale", NSDI 2006).
"""

import ctypes
import gc
import select
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.errors import BenchmarkError
from benchmarks.http2 import Connection, StreamEnd
from benchmarks.request_payload import FRAME_HEADER_BYTES, RequestPayload

OK, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED = 0, 4, 8
"""gRPC's codes."""
CONNECTIONS = 8
PATIENCE_S = 30.0
"""How long nothing may come back before the benchmark gives up."""
SET_TIMER_SLACK = 29
"""prctl(2). The kernel may be 50 µs late with a time-out, unless it is told otherwise."""


@dataclass(frozen=True)
class Outcome:
    """What became of each request, in the order of arrival; all times in nanoseconds from the start."""

    due: NDArray[np.int64]
    """When it was to be sent."""
    sent: NDArray[np.int64]
    done: NDArray[np.int64]
    status: NDArray[np.int16]
    cpu_s: float
    """Processor time of this process meanwhile."""

    @property
    def seconds(self) -> float:
        """Until the last response."""
        return float(self.done.max(initial=0)) / 1e9

    @property
    def latency_us(self) -> NDArray[np.float64]:
        """From the arrival as drawn to the response."""
        return (self.done - self.due) / 1e3

    @property
    def lag_us(self) -> NDArray[np.float64]:
        """From the arrival as drawn until it was handed to the socket: what the generator itself adds."""
        return (self.sent - self.due) / 1e3

    def count(self, status: int) -> int:
        """Counts the requests with this status."""
        return int((self.status == status).sum())

    @property
    def answer_us(self) -> NDArray[np.float64]:
        """From the socket to the response."""
        return (self.done - self.sent) / 1e3

    def goodput(self, since_s: float, until_s: float, within_s: float = np.inf) -> float:
        """Counts the requests a second that succeeded in that time, each no later than ``within_s`` after its start."""
        good = (self.status == OK) & (self.done >= since_s * 1e9) & (self.done < until_s * 1e9)
        return float((good & (self.answer_us <= within_s * 1e6)).sum() / (until_s - since_s))


def poisson(rate: float, seconds: float, seed: int) -> NDArray[np.int64]:
    """Arrival times in nanoseconds: independent, ``rate`` a second on average."""
    count = np.random.default_rng(seed).poisson(rate * seconds)
    return np.sort(np.random.default_rng(seed + 1).integers(0, round(seconds * 1e9), count))


def run(
    address: str,
    payload: RequestPayload,
    due: NDArray[np.int64],
    *,
    connections: int = CONNECTIONS,
    deadline_s: float = 0.0,
) -> Outcome:
    """Sends a request at each of these times (sorted) and waits for all responses; raises BenchmarkError.

    A response that says OK must be as long as the right one. ``deadline_s``: of each request; 0: none.
    """
    more = {"grpc-timeout": f"{round(deadline_s * 1e6)}u"} if deadline_s else {}
    loop = _Loop(due.tolist())
    with ExitStack() as stack:
        opened = [stack.enter_context(closing(Connection(address, payload, more))) for _ in range(connections)]
        stack.enter_context(_undisturbed())
        cpu = time.process_time()
        loop.run(opened)
        cpu = time.process_time() - cpu
    codes, sizes = np.array(loop.status, np.int16), np.array(loop.data_bytes)
    wrong = (codes == OK) & (sizes != FRAME_HEADER_BYTES + payload.response_bytes)
    if wrong.any():
        raise BenchmarkError(
            f"{int(wrong.sum())} of {len(due)} responses have another length than the right one, "
            f"{payload.response_bytes} bytes: there is nothing to measure while responses are wrong"
        )
    return Outcome(due, np.array(loop.sent, np.int64), np.array(loop.done, np.int64), codes, cpu)


class _Loop:
    """What became of each request so far; times in nanoseconds from the start of the run."""

    def __init__(self, due: list[int]) -> None:
        self._due = due
        self.sent, self.done, self.status, self.data_bytes = ([0] * len(due) for _ in range(4))
        self._next = self._in_flight = self._turn = 0

    def run(self, connections: list[Connection]) -> None:
        """Sends each request when it is due, and reads until all have ended."""
        by_number = {connection.fileno(): connection for connection in connections}
        readers = list(by_number)
        self._start = time.perf_counter_ns()
        while self._next < len(self._due) or self._in_flight:
            wait_s = self._send_due(connections)
            writers = [number for number, connection in by_number.items() if connection.pending]
            readable, writable, _ = select.select(readers, writers, (), wait_s)
            if not readable and not writable and wait_s == PATIENCE_S:
                raise BenchmarkError(f"{self._in_flight} requests got no response within {PATIENCE_S:.0f} s")
            for number in readable:
                self._take(by_number[number].receive())

    def _send_due(self, connections: list[Connection]) -> float:
        """Hands out what is due; returns the seconds until the next arrival."""
        due, count, held = self._due, len(self._due), False
        now = time.perf_counter_ns() - self._start
        while self._next < count and due[self._next] <= now and not held:
            # What is due together goes over one connection, in one call of the system.
            for connection in connections[self._turn :] + connections[: self._turn]:
                while self._next < count and due[self._next] <= now and connection.start(self._next):
                    self.sent[self._next] = now
                    self._next += 1
                    self._in_flight += 1
            held = self._next < count and due[self._next] <= now  # no connection takes more: it waits, the clock runs
            self._turn = (self._turn + 1) % len(connections)
        for connection in connections:
            if connection.pending:
                connection.send()
        if self._next == count or held:
            return PATIENCE_S
        return max(0.0, (due[self._next] - (time.perf_counter_ns() - self._start)) / 1e9)

    def _take(self, ends: list[StreamEnd]) -> None:
        now = time.perf_counter_ns() - self._start
        for end in ends:
            self.done[end.number] = now
            self.status[end.number] = end.status
            self.data_bytes[end.number] = end.data_bytes
        self._in_flight -= len(ends)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No pauses for collecting garbage, and time-outs that are exact."""
    prctl = ctypes.CDLL(None).prctl
    gc.collect()
    gc.disable()
    prctl(SET_TIMER_SLACK, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(SET_TIMER_SLACK, 0, 0, 0, 0)  # 0: the default again
        gc.enable()
