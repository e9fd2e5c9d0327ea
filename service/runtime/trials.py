"""How the runs of a model had better be made: a few are timed while it is opened.

What they took is remembered by runner and number of rows. A machine that others keep busy makes runs longer, never
shorter, so the fastest of a few counts. Knows nothing of models but how long a run takes.
"""

from collections.abc import Callable

from service.runtime.runner import Runner

LONG_US = 30_000.0
"""Runs beyond this use all threads well."""
WORTH = 0.95
"""Of the time that threads have in all, the part that a run by one of them may take if that is to pay."""
JOIN_US = 1_250.0
"""What a run of many small requests may take: longer ones gain little, and whoever came first waits for them."""
HOPELESS = 3
"""By so much must a row's time, times the rows, exceed the limit: most of a short run is the same for any rows."""
TRIES = 5
"""Runs of which the fastest tells how long a run takes: the first plans its memory, others may be interrupted."""
TRY_US = 10_000.0
"""What these may take after the first, which always is followed by one: long runs are disturbed the less."""


class Trials:
    """Timed runs of a model of up to ``max_rows`` rows; ``run`` makes one and returns its microseconds."""

    def __init__(self, run: Callable[[Runner, int], float], max_rows: int) -> None:
        """Runs nothing yet. What ``run`` raises, all methods raise."""
        self._run, self._max_rows = run, max_rows
        self._fastest_us: dict[tuple[Runner, int], float] = {}

    def rows_within(self, runner: Runner, limit_us: float) -> int:
        """The most rows, a power of two, that the runner has run within this time; 0: not even one."""
        within, rows = 0, 1
        while rows <= self._max_rows and self._fastest(runner, rows) <= limit_us:
            within, rows = rows, rows * 2
        return within

    def rows_worth_joining(self, runner: Runner, least: int) -> int:
        """``least`` rows, or more where they run within ``JOIN_US``: each run costs its hand-over between threads."""
        rows = least
        if self._is_hopeless(runner, rows, JOIN_US):
            return rows
        while rows < self._max_rows:
            more = min(2 * rows, self._max_rows)
            if self._fastest(runner, more) > JOIN_US:
                break
            rows = more
        return rows

    def gains(self, all_threads: Runner, one: Runner, threads: int, rows: int) -> bool:
        """Whether ``threads`` runs at a time, by one thread each, do clearly more than one after the other by all."""
        both = (all_threads, one)
        if self._is_hopeless(one, rows, LONG_US) or any(self._run(runner, rows) > LONG_US for runner in both):
            return False
        together, alone = (self._fastest(runner, rows) for runner in both)
        return alone < WORTH * threads * together

    def _is_hopeless(self, runner: Runner, rows: int, limit_us: float) -> bool:
        """Whether so many rows will not run in that time, as one row tells: trying them would hold up the start."""
        return self._fastest(runner, 1) * rows > HOPELESS * limit_us

    def _fastest(self, runner: Runner, rows: int) -> float:
        """Microseconds of the fastest of ``TRIES`` runs, or of fewer where these take long."""
        key = runner, rows
        if key not in self._fastest_us:
            fastest, left_us = self._run(runner, rows), TRY_US
            for _ in range(TRIES - 1):
                took = self._run(runner, rows)
                fastest, left_us = min(fastest, took), left_us - took
                if left_us < 0:
                    break
            self._fastest_us[key] = fastest
        return self._fastest_us[key]
