"""Servers in processes of their own, on a free port of this machine: started, waited for, always stopped."""

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from benchmarks.errors import BenchmarkError

START_S = 60.0
"""How long a server may take until it listens: importing, opening and probing a model."""
STOP_S = 10.0
"""How long it may take to end by itself before it is killed."""

PROCESS_CPU_CLOCK = 2
"""Linux puts a process's id, inverted, above three bits that name the clock: what clock_getcpuclockid(3) returns."""


class ServerProcess:
    """``python -m MODULE ARGUMENTS``, which logs JSON lines, one of them with the event "listening".

    A context manager: entering starts it and does not wait, so that several start side by side.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._module = module
        self._arguments = arguments
        self._listening: Future[str] = Future()
        self._reader = threading.Thread(target=self._read, name=f"log of {module}", daemon=True)

    def __enter__(self) -> Self:
        """Starts the process."""
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
    def address(self) -> str:
        """``host:port``, once it listens; raises BenchmarkError where it does not in time."""
        try:
            return self._listening.result(START_S)
        except TimeoutError:
            raise BenchmarkError(f"`python -m {self._module}` does not listen after {START_S:.0f} s") from None

    def cpu_s(self) -> float:
        """CPU time that it has used so far in all its threads, in seconds."""
        return time.clock_gettime(~self._process.pid << 3 | PROCESS_CPU_CLOCK)

    def _read(self) -> None:
        """Follows the log to its end, so that the pipe never fills."""
        line = "it said nothing"
        for line in self._process.stderr or ():
            entry = _parsed(line)
            if entry.get("event") == "listening":
                self._listening.set_result(entry["address"])
        if not self._listening.done():
            reason = _parsed(line).get("reason", line.strip())
            self._listening.set_exception(BenchmarkError(f"`python -m {self._module}` did not start: {reason}"))


def _parsed(line: str) -> dict[str, str]:
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}
