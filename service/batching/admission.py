"""Admission to a queue: a request that would wait for too long is refused at once, and told when to try again."""

import math
import time

from ..errors import Overloaded
from .policy import BatchingPolicy
from .queue import FairQueue
from .request import Request


def calm_bounds(policy: BatchingPolicy, row_s: float) -> tuple[int, float]:
    """So few rows may wait that a request is admitted without a further look, if its deadline is so many ns off."""
    running_rows = policy.max_run_rows * policy.instance_count
    within_s = policy.max_queue_s / row_s - running_rows if row_s else math.inf
    rows = int(min(policy.max_queue_rows, max(policy.max_batch_rows, within_s)))
    return rows, (rows + running_rows) * row_s * 1e9


def admit(
    request: Request, queue: FairQueue, running_rows: int, row_s: float, policy: BatchingPolicy, model: str
) -> None:
    """Raises Overloaded where the queue is full, or would keep the request for too long.

    ``running_rows`` are ahead of the queue, and ``row_s`` is what a row takes. Others' requests count only as far as
    they will run before this one: connections take turns.
    """
    wait_s = (queue.rows + running_rows) * row_s
    if queue.rows + request.rows > policy.max_queue_rows:
        own_rows = queue.rows_ahead(request) + request.rows
        # Where others' requests fill the queue, this caller still has its share.
        if own_rows > policy.max_batch_rows or queue.rows > 2 * policy.max_queue_rows:
            raise Overloaded(
                f"Exceeds maximum queue size: {queue.rows} rows wait for '{model}', {policy.max_queue_rows} may. "
                f"{_try_again(wait_s)}",
                retry_after_s=wait_s,
                reason="queue_rows",
            )
        return
    limit_s, limit = _wait_limit(request, queue, row_s, policy)
    if wait_s <= limit_s:
        return
    wait_s = (queue.rows_ahead(request) + running_rows) * row_s
    if wait_s > limit_s:
        raise Overloaded(
            f"Exceeds maximum queue time: '{model}' would begin this request in {wait_s * 1e3:.0f} ms, "
            f"{max(limit_s, 0) * 1e3:.0f} ms are allowed ({limit}). {_try_again(wait_s)}",
            retry_after_s=wait_s,
            reason="queue_time",
        )


def _wait_limit(request: Request, queue: FairQueue, row_s: float, policy: BatchingPolicy) -> tuple[float, str]:
    """How long the request may wait for its run, in seconds, and what says so."""
    # Behind as many rows as one request may have, others can always wait, however slow the model is.
    limit_s = policy.max_queue_s if queue.rows > policy.max_batch_rows else math.inf
    if request.deadline is not None:
        left_s = request.deadline - time.monotonic()
        # Its run is not only its own: where others wait, as many come along behind it. Without them, of twice the load
        # with deadlines of 200 ms 0.84 of the peak came in time, with them 0.95 (benchmarks --only overload).
        run_s = max(request.rows, min(policy.preferred_batch_size, queue.rows)) * row_s
        if 0 < left_s < limit_s + run_s:  # one that has passed expires in the queue, and is told so
            return left_s - run_s, "its deadline"
    return limit_s, "--max-queue-ms"


def _try_again(wait_s: float) -> str:
    return f"Try again in {wait_s * 1e3:.0f} ms." if wait_s else "Try again later."
