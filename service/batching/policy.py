"""How the requests of one model become runs: the numbers that a batcher keeps to."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Batching = Literal["auto", "on", "off"]
"""``on`` refuses a model whose rows depend on each other, which ``auto`` serves one request at a time."""
BATCHING: Mapping[str, Batching] = {"auto": "auto", "on": "on", "off": "off"}


@dataclass(frozen=True, kw_only=True)
class BatchingPolicy:
    """Limits of a batcher.

    Zero in ``preferred_batch_size`` and ``max_run_rows`` means ``max_batch_rows``.
    """

    max_batch_rows: int
    """Most rows of one request."""
    preferred_batch_size: int = 0
    """Most rows of several requests in one run; 1: requests never share a run."""
    max_run_rows: int = 0
    """A request of more rows is run in parts, between which others run."""
    max_queue_rows: int = 4096
    """Most rows that may wait; more are refused."""
    max_queue_s: float = math.inf
    """A request that would wait longer is refused at once, but for one full request, which may always wait."""
    max_queue_delay_s: float = 0.0
    """How long a request may wait for others to share its run."""
    max_inline_s: float = 0.0
    """Runs expected to be this short happen in the thread that dispatches; 0: none."""
    instance_count: int = 1
    """Most runs at a time."""
    min_parallel_rows: int = 1
    """So many rows must wait before a run begins beside another."""

    def __post_init__(self) -> None:
        """Fills in what is zero, and keeps the limits in their order."""
        most = self.max_batch_rows
        object.__setattr__(self, "preferred_batch_size", min(self.preferred_batch_size or most, most))
        object.__setattr__(self, "max_run_rows", max(self.max_run_rows or most, self.preferred_batch_size))
        object.__setattr__(self, "max_queue_rows", max(self.max_queue_rows, most))
