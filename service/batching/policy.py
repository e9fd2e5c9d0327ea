"""How a batcher forms batches: its limits, in one frozen object."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Batching = Literal["auto", "on", "off"]
"""``on`` refuses a model whose rows depend on each other, which ``auto`` serves one request at a time."""
BATCHING: Mapping[str, Batching] = {"auto": "auto", "on": "on", "off": "off"}


@dataclass(frozen=True)
class BatchingPolicy:
    """Limits in rows and seconds. What is 0 is as the field's line says."""

    max_batch_rows: int
    """Most rows in a request, and in a batch."""
    max_queue_rows: int
    """Most rows that may wait; at least a batch may."""
    preferred_batch_size: int = 0
    """Requests are joined up to so many rows; 1 joins none, 0: ``max_batch_rows``."""
    max_run_rows: int = 0
    """A request of more rows is run in parts, so not below ``preferred_batch_size``; 0: ``max_batch_rows``."""
    max_queue_delay_s: float = 0.0
    """How long a request may wait for others to join it."""
    max_inline_s: float = 0.0
    """Runs expected to take this or less, together, happen in the thread that dispatches."""
    instance_count: int = 1
    """How many runs may be under way at a time."""
    min_parallel_rows: int = 1
    """One begins beside another when so many rows wait."""
