"""An open loop: requests come when they come, whether or not the ones before have been answered.

Arrivals are drawn beforehand, and the latency of a request counts from its arrival as drawn. A
request that is sent late, because this process, the connection or the server held it up, has been
waiting all the same; nothing is left out where the server is slow (Schroeder, Wierman and
Harchol-Balter, "Open versus closed: a cautionary tale", NSDI 2006).
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
from benchmarks.exchange import FRAME_HEADER_BYTES, Exchange
from benchmarks.http2 import Connection

OK, RESOURCE_EXHAUSTED = 0, 8
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
        """Until the last answer."""
        return float(self.done.max(initial=0)) / 1e9

    @property
    def latency_us(self) -> NDArray[np.float64]:
        """From the arrival as drawn to the answer."""
        return (self.done - self.due) / 1e3

    @property
    def lag_us(self) -> NDArray[np.float64]:
        """From the arrival as drawn until it was handed to the socket: what the generator itself adds."""
        return (self.sent - self.due) / 1e3

    def count(self, status: int) -> int:
        """How many ended so."""
        return int((self.status == status).sum())

    def rate(self, status: int, since_s: float, until_s: float) -> float:
        """How many a second ended so, in that time."""
        within = (self.done >= since_s * 1e9) & (self.done < until_s * 1e9)
        return float((within & (self.status == status)).sum() / (until_s - since_s))


def poisson(rate: float, seconds: float, seed: int) -> NDArray[np.int64]:
    """Arrival times in nanoseconds: independent, ``rate`` a second on average."""
    count = np.random.default_rng(seed).poisson(rate * seconds)
    return np.sort(np.random.default_rng(seed + 1).integers(0, round(seconds * 1e9), count))


def run(address: str, exchange: Exchange, due: NDArray[np.int64], *, connections: int = CONNECTIONS) -> Outcome:
    """Sends a request at each of these times (sorted) and waits for all answers; raises BenchmarkError.

    An answer that says OK must be as long as the right one.
    """
    count = len(due)
    sent, done, status, size = ([0] * count for _ in range(4))
    with ExitStack() as stack:
        opened = [stack.enter_context(closing(Connection(address, exchange))) for _ in range(connections)]
        stack.enter_context(_undisturbed())
        cpu = time.process_time()
        _drive(opened, due.tolist(), sent, done, status, size)
        cpu = time.process_time() - cpu
    codes, sizes = np.array(status, np.int16), np.array(size)
    wrong = (codes == OK) & (sizes != FRAME_HEADER_BYTES + exchange.answer_bytes)
    if wrong.any():
        raise BenchmarkError(
            f"{int(wrong.sum())} of {count} answers have another length than the right one, "
            f"{exchange.answer_bytes} bytes: there is nothing to measure while answers are wrong"
        )
    return Outcome(due, np.array(sent, np.int64), np.array(done, np.int64), codes, cpu)


def _drive(
    connections: list[Connection], due: list[int], sent: list[int], done: list[int], status: list[int], size: list[int]
) -> None:
    """Fills the lists."""
    count, at, open_requests, turn = len(due), 0, 0, 0
    by_number = {connection.fileno(): connection for connection in connections}
    readers = list(by_number)
    start = time.perf_counter_ns()
    while at < count or open_requests:
        now = time.perf_counter_ns() - start
        held = False
        while at < count and due[at] <= now and not held:
            # What is due together goes over one connection, in one call of the system.
            for connection in connections[turn:] + connections[:turn]:
                while at < count and due[at] <= now and connection.start(at):
                    sent[at] = now
                    at += 1
                    open_requests += 1
            held = at < count and due[at] <= now  # no connection takes more: it waits here, and the clock runs
            turn = (turn + 1) % len(connections)
        for connection in connections:
            if connection.pending:
                connection.send()
        wait = PATIENCE_S
        if at < count and not held:
            wait = max(0.0, (due[at] - (time.perf_counter_ns() - start)) / 1e9)
        writers = [number for number, connection in by_number.items() if connection.pending]
        readable, writable, _ = select.select(readers, writers, (), wait)
        if not readable and not writable and wait == PATIENCE_S:
            raise BenchmarkError(f"{open_requests} requests got no answer within {PATIENCE_S:.0f} s")
        for each in readable:
            answers = by_number[each].receive()
            now = time.perf_counter_ns() - start
            for number, code, data_bytes in answers:
                done[number] = now
                status[number] = code
                size[number] = data_bytes
            open_requests -= len(answers)


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
