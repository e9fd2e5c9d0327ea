"""How long runs take, as far as those that were made tell."""

import math
from collections.abc import Hashable
from typing import Final

MAX_SIZES: Final = 1024
"""Signatures and sizes that are remembered; past that all are forgotten."""
DECAY: Final = 0.75
"""What each run leaves of the weight of those before it, in the estimate of a row's time."""


class RunTimes:
    """Estimates of one model's runs: by signature and size, and of a row when the batcher is busy."""

    def __init__(self) -> None:
        self._expected_ns: dict[tuple[Hashable, int], float] = {}
        self._busy_ns, self._busy_rows = 0.0, 0.0  # of late, decayed
        self.longest_ns = 0.0
        """No run was ever expected to take longer."""
        self._backlog_since_ns = 0  # the end of the last run, if others were to follow at once

    @property
    def row_s(self) -> float:
        """Seconds that a row takes of late, all overhead included; 0 before the first run."""
        return self._busy_ns / self._busy_rows / 1e9 if self._busy_rows else 0.0

    def expected_ns(self, signature: Hashable, rows: int) -> float:
        """Nanoseconds of a run of about so many rows of these shapes; infinite before the first."""
        return self._expected_ns.get((signature, rows.bit_length()), math.inf)

    def add(
        self,
        signature: Hashable,
        rows: int,
        run_ns: int,
        span_ns: tuple[int, int],
        *,
        is_full: bool,
        others_follow: bool,
    ) -> None:
        """Counts a run. ``span_ns``: when the batcher began and ended with it.

        ``others_follow``: more rows wait or run, so that the time up to the end of the next run counts for those.
        A row's time is learned from runs that are full, or have others before or behind them: most of a small run's
        time is the same for any rows. A lone one only tells that a row takes no longer than it did.
        """
        began, ended = span_ns
        if len(self._expected_ns) >= MAX_SIZES:
            self._expected_ns.clear()
        expected = self._expected_ns.get((signature, rows.bit_length()), run_ns)
        expected += (run_ns - expected) / 8
        self._expected_ns[signature, rows.bit_length()] = expected
        self.longest_ns = max(self.longest_ns, expected)
        took_ns = max(0, ended - (self._backlog_since_ns or began))
        if is_full or others_follow or self._backlog_since_ns or took_ns < rows * self.row_s * 1e9:
            self._busy_ns = self._busy_ns * DECAY + took_ns
            self._busy_rows = self._busy_rows * DECAY + rows
        self._backlog_since_ns = ended if others_follow else 0
