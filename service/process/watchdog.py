"""Sees to it that nothing stands still unnoticed: the thread that receives, and each run of a model.

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

from ..batching.batcher import Batcher

TICK_S = 0.02
"""While runs are under way."""
IDLE_TICK_S = 0.5
SLOW_S = 1.0
"""A turn of the receiving thread, or a run, of this length is told of."""
EXIT_CODE = 70
"""EX_SOFTWARE of sysexits.h: the process was ended because it stood still."""

log = structlog.get_logger(__name__)


class Watchdog:
    """Watches one process. A context manager: leaving it ends the watch."""

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], None],
        batchers: Callable[[], Iterable[Batcher]],
        *,
        busy: threading.Event,
        limit_s: float,
    ) -> None:
        """``call_soon`` has something done by the thread that receives; ``busy`` is set when a long run begins.

        ``limit_s``: the process ends when a turn or a run lasts longer; 0: never.
        """
        self._call_soon = call_soon
        self._batchers = batchers
        self._busy = busy
        self._limit_s = limit_s
        self._stopped = False
        self._asked_at = 0.0  # when the receiving thread was asked for a sign of life; 0: it has given it
        self._receiving: int | None = None
        self._told_turn = False
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

    @property
    def turn_s(self) -> float:
        """How long the receiving thread has not given a sign of life, in seconds."""
        asked = self._asked_at
        return time.monotonic() - asked if asked else 0.0

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
                self._see_to_receiver()
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

    def _see_to_receiver(self) -> None:
        turn_s = self.turn_s
        if not turn_s:
            self._told_turn = False
            self._asked_at = time.monotonic()
            self._call_soon(self._answer)
        elif turn_s >= SLOW_S and not self._told_turn:
            self._told_turn = True
            self.slow_turns += 1
            log.warning("slow turn of the receiving thread", for_s=round(turn_s, 3), stack=_stack(self._receiving))
        if self._limit_s and turn_s > self._limit_s:
            self._end(f"the receiving thread has stood still for {turn_s:.0f} s", self._receiving)

    def _answer(self) -> None:
        self._receiving = threading.get_ident()
        self._asked_at = 0.0

    def _end(self, reason: str, thread: int | None) -> None:
        log.critical(
            "the process ends itself", reason=f"{reason}; --watchdog-s is {self._limit_s:g}", stack=_stack(thread)
        )
        time.sleep(0.1)  # the log's thread writes it
        os._exit(EXIT_CODE)


def _stack(thread: int | None) -> str:
    frame = sys._current_frames().get(thread or 0)  # noqa: SLF001 - the documented way to another thread's stack
    return "" if frame is None else "".join(traceback.format_stack(frame))
