"""Processes that ask without a pause, check each answer, and tell what they got."""

import multiprocessing
import threading
from collections import Counter
from dataclasses import dataclass, field
from queue import Empty
from typing import Any

import grpc

from tests.soak.requests import Ask, Mix

PROCESSES = 2
THREADS = 2
DEPTH = 8
"""Requests in flight of each thread."""
IN_FLIGHT = PROCESSES * THREADS * DEPTH
NEW_CHANNEL_AFTER = 5_000
TELL_AFTER = 250


@dataclass
class Tally:
    """What came of some requests."""

    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By kind of request and status."""
    checked: int = 0
    """Answers that were compared with ONNX Runtime's."""
    wrong: list[str] = field(default_factory=list)
    """Answers and statuses that must not be; without those of a worker that was killed."""
    unavailable: int = 0

    def add(self, other: "Tally") -> None:
        """Adds another one."""
        self.statuses += other.statuses
        self.checked += other.checked
        self.wrong += other.wrong[:20]
        self.unavailable += other.unavailable

    @property
    def requests(self) -> int:
        """How many requests these are."""
        return self.statuses.total()

    def take(self, ask: Ask, call: Any) -> None:
        """Counts one call's end, and checks its answer."""
        code = call.code().name
        self.statuses[ask.kind, code] += 1
        if code == "OK" and "OK" in ask.expected:
            self.checked += 1
            if reason := ask.wrong(call.result()):
                self.wrong.append(reason)
        elif code == "UNAVAILABLE":
            self.unavailable += 1
        elif code not in ask.expected:
            self.wrong.append(f"{ask.kind}: {code}: {call.details()}")


class Callers:
    """Starts the processes; ``collect`` gives what they have told so far."""

    def __init__(self, address: str, requests: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._tallies: Any = context.Queue()
        each = -(-requests // (PROCESSES * THREADS))
        self._processes = [
            context.Process(target=_run, args=(address, each, seed, self._tallies), daemon=True)
            for seed in range(PROCESSES)
        ]
        for process in self._processes:
            process.start()

    def collect(self, total: Tally) -> bool:
        """Adds what has come; False once all have ended and all is told."""
        alive = any(process.is_alive() for process in self._processes)
        try:
            total.add(self._tallies.get(timeout=0.2))
        except Empty:
            if not alive:
                failed = [process.exitcode for process in self._processes if process.exitcode]
                if failed:
                    total.wrong.append(f"callers ended with {failed}")
            return alive
        return True


def _run(address: str, requests: int, seed: int, tallies: Any) -> None:
    threads = [
        threading.Thread(target=_ask, args=(address, requests, Mix(seed * THREADS + number), tallies))
        for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _ask(address: str, requests: int, mix: Mix, tallies: Any) -> None:
    sent, tally = 0, Tally()
    while sent < requests:
        with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            until = min(requests, sent + NEW_CHANNEL_AFTER)
            while sent < until:
                asks = [mix.draw() for _ in range(min(DEPTH, until - sent))]
                # Ready: else all calls of the second in which a channel waits to connect again fail at once.
                calls: list[Any] = [
                    channel.unary_unary(ask.path, None, None).future(
                        ask.payload, timeout=ask.timeout_s, wait_for_ready=True
                    )
                    for ask in asks
                ]
                for ask, call in zip(asks, calls, strict=True):
                    if ask.cancelled:
                        call.cancel()
                for ask, call in zip(asks, calls, strict=True):
                    tally.take(ask, call)
                sent += len(asks)
                if tally.requests >= TELL_AFTER or sent >= requests:
                    tallies.put(tally)
                    tally = Tally()
