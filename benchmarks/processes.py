"""Servers in processes of their own, on a free port of this machine: started, waited for, always stopped."""

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from benchmarks.errors import BenchmarkError

T = TypeVar("T")
START_S = 60.0
"""How long a server may take until it listens: importing, opening and probing a model."""
STOP_S = 10.0
"""How long it may take to end by itself before it is killed."""
PROCESS_CPU_CLOCK = 2
"""Linux puts a process's id, inverted, above three bits that name the clock: what clock_getcpuclockid(3) returns."""


class ServerProcess:
    """``python -m MODULE ARGUMENTS``, which logs JSON lines, one of them with the event "listening".

    A context manager: entering starts it and does not wait, so that several start side by side. What
    it starts itself, worker processes say, counts as part of it.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._module = module
        self._arguments = arguments
        self._listening: Future[str] = Future()
        self._ready: Future[float] = Future()
        self._reader = threading.Thread(target=self._read, name=f"log of {module}", daemon=True)

    def __enter__(self) -> Self:
        """Starts the process."""
        self._started = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", self._module, *self._arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Asks it to end, and sees to it that it does."""
        with self._process:  # on leaving, closes the pipe
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self._reader.join()

    @property
    def pid(self) -> int:
        """Of the process that was started."""
        return self._process.pid

    @property
    def address(self) -> str:
        """``host:port``, once it listens; raises BenchmarkError where it does not in time."""
        return self._within(self._listening)

    @property
    def ready_s(self) -> float:
        """Seconds from the start of the process until it said that it is ready; raises BenchmarkError."""
        return self._within(self._ready)

    def tree(self) -> list[int]:
        """The ids of the process and of all that it has started."""
        found = [self.pid]
        for pid in found:
            found += _children(pid)
        return found

    def cpu_s(self) -> float:
        """CPU time used so far in all threads of all its processes, in seconds."""
        return sum(time.clock_gettime(~pid << 3 | PROCESS_CPU_CLOCK) for pid in self.tree())

    def rss_mb(self) -> list[float]:
        """The memory that each of its processes has in RAM, in 10^6 bytes."""
        return [
            int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
            for pid in self.tree()
        ]

    def _within(self, future: "Future[T]") -> T:
        try:
            return future.result(START_S)
        except TimeoutError:
            raise BenchmarkError(f"`python -m {self._module}` does not listen after {START_S:.0f} s") from None

    def _read(self) -> None:
        """Follows the log to its end, so that the pipe never fills."""
        line = "it said nothing"
        for line in self._process.stderr or ():
            entry = _parsed(line)
            if entry.get("event") == "listening" and not self._listening.done():  # each worker may say so
                self._listening.set_result(entry["address"])
            if entry.get("event") == "ready" and not self._ready.done():
                self._ready.set_result(time.perf_counter() - self._started)
        reason = _parsed(line).get("reason", line.strip())
        for future in (self._listening, self._ready):
            if not future.done():
                future.set_exception(BenchmarkError(f"`python -m {self._module}` did not start: {reason}"))


def _children(pid: int) -> list[int]:
    """Those of any of its threads."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in lists for child in path.read_text().split()]


def _parsed(line: str) -> dict[str, str]:
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}
