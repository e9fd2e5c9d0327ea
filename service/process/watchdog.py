"""Sees to it that nothing stands still unnoticed: the threads that receive, and each run of a model.

A thread of its own ticks while there is work. It answers requests whose time has passed, tells of slow turns and runs
with the stack of their thread, and ends the process where one lasts beyond the limit, so that whatever supervises it
starts another.
"""

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

import structlog

from .. import logs
from ..batching.batcher import Batcher

TICK_S = 0.02
"""While runs are under way."""
IDLE_TICK_S = 0.5
SLOW_S = 1.0
"""A turn of the receiving thread, or a run, of this length is told of."""
EXIT_CODE = 70
"""EX_SOFTWARE of sysexits.h: the process was ended because it stood still."""

log = structlog.get_logger(__name__)


CallSoon = Callable[[Callable[[], None]], None]
"""Has something done by a thread that receives."""


class _Receiver:
    """A thread that receives, and its signs of life."""

    def __init__(self, call_soon: CallSoon) -> None:
        self._call_soon = call_soon
        self._asked_at = 0.0  # when it was asked for a sign of life; 0: it has given it
        self.thread: int | None = None
        self.told = False
        """Whether its turn has been told of as a slow one."""

    @property
    def turn_s(self) -> float:
        """How long it has not given a sign of life, in seconds."""
        asked = self._asked_at
        return time.monotonic() - asked if asked else 0.0

    def ask(self) -> None:
        """Asks for a sign of life."""
        self.told = False
        self._asked_at = time.monotonic()
        self._call_soon(self._answer)

    def _answer(self) -> None:
        self.thread = threading.get_ident()
        self._asked_at = 0.0


class Watchdog:
    """Watches one process. A context manager: leaving it ends the watch."""

    def __init__(
        self,
        receivers: Iterable[CallSoon],
        batchers: Callable[[], Iterable[Batcher]],
        *,
        busy: threading.Event,
        limit_s: float,
    ) -> None:
        """``receivers`` have something done by each thread that receives; ``busy`` is set when a long run begins.

        ``limit_s``: the process ends when a turn or a run lasts longer; 0: never.
        """
        self._receivers = [_Receiver(call_soon) for call_soon in receivers]
        self._batchers = batchers
        self._busy = busy
        self._limit_s = limit_s
        self._stopped = False
        self._told_runs: set[int] = set()
        self.slow_turns = 0
        self.slow_runs = 0
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        """Starts to watch."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the watch."""
        self._stopped = True
        self._busy.set()
        self._thread.join()

    def _watch(self) -> None:
        looked_at = 0.0
        while not self._stopped:
            is_busy = self._see_to_batchers()
            if not is_busy:
                self._busy.clear()
                if self._see_to_batchers():  # a run began in between
                    self._busy.set()
            if time.monotonic() - looked_at >= IDLE_TICK_S:
                looked_at = time.monotonic()
                for receiver in self._receivers:
                    self._see_to(receiver)
            if self._busy.is_set():
                time.sleep(TICK_S)
            else:
                self._busy.wait(IDLE_TICK_S)

    def _see_to_batchers(self) -> bool:
        """Answers what has expired and looks at the runs under way; returns True if there are any."""
        is_busy = False
        under_way = set()
        for batcher in self._batchers():
            runs = batcher.runs
            if runs or batcher.queued_rows:
                is_busy = True
                batcher.expire()
            for run in runs:
                took_s = (time.monotonic_ns() - run.began_ns) / 1e9
                if took_s < SLOW_S:
                    continue
                under_way.add(id(run))
                if id(run) not in self._told_runs:
                    self.slow_runs += 1
                    log.warning(
                        "slow run", model=batcher.name, rows=run.rows, for_s=round(took_s, 3), stack=_stack(run.thread)
                    )
                if self._limit_s and took_s > self._limit_s:
                    self._end(f"a run of '{batcher.name}' has lasted {took_s:.0f} s", run.thread)
        self._told_runs = under_way
        return is_busy

    def _see_to(self, receiver: _Receiver) -> None:
        turn_s = receiver.turn_s
        if not turn_s:
            receiver.ask()
        elif turn_s >= SLOW_S and not receiver.told:
            receiver.told = True
            self.slow_turns += 1
            log.warning("slow turn of the receiving thread", for_s=round(turn_s, 3), stack=_stack(receiver.thread))
        if self._limit_s and turn_s > self._limit_s:
            self._end(f"the receiving thread has stood still for {turn_s:.0f} s", receiver.thread)

    def _end(self, reason: str, thread: int | None) -> None:
        log.critical(
            "the process ends itself", reason=f"{reason}; --watchdog-s is {self._limit_s:g}", stack=_stack(thread)
        )
        logs.close()
        os._exit(EXIT_CODE)


def _stack(thread: int | None) -> str:
    frame = sys._current_frames().get(thread or 0)  # noqa: SLF001 - the documented way to another thread's stack
    return "" if frame is None else "".join(traceback.format_stack(frame))
