"""Many small requests become few large runs. Knows neither gRPC nor ONNX: rows of arrays, and a function to run.

While a run is on, the queue fills; the next run takes what is there, up to the limit in rows. So
batches form under load by themselves, and a lone request never waits.

A run that is expected to be short happens in the thread that brought the requests: handing it to
another costs more than it saves (benchmarks/README.md). All others happen in the batcher's own threads,
while the next requests are read; where that does more, full runs happen side by side.
"""

import heapq
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Self

import numpy as np

from service.batching.batch import TensorMap, concatenate, split
from service.batching.request import LOWEST_PRIORITY, Request
from service.batching.statistics import Statistics
from service.errors import Cancelled, Expired, Overloaded, Stopping


class Batcher:
    """A bounded queue, and runs of what is in it. A context manager: leaving it runs nothing more."""

    def __init__(
        self,
        run: Callable[[TensorMap], TensorMap],
        *,
        max_batch_rows: int,
        max_queue_rows: int,
        preferred_batch_size: int | None = None,
        max_run_rows: int | None = None,
        max_queue_delay_s: float = 0.0,
        max_inline_s: float = 0.0,
        instance_count: int = 1,
        min_parallel_rows: int = 1,
        flush_scope: AbstractContextManager[None] | None = None,
        name: str = "model",
    ) -> None:
        """Joins requests up to ``preferred_batch_size``, which is ``max_batch_rows`` if not given; 1 joins none.

        A request of more than ``max_run_rows`` is run in parts; it should not be below ``preferred_batch_size``.

        Runs expected to take ``max_inline_s`` or less, together, happen in the thread that dispatches. Up to
        ``instance_count`` runs are under way at a time: one begins beside another when ``min_parallel_rows`` wait.
        All results of a run are delivered within ``flush_scope``.
        """
        self._run = run
        self.max_batch_rows = max_batch_rows
        self.preferred_batch_size = min(preferred_batch_size or max_batch_rows, max_batch_rows)
        self._max_run_rows = max_run_rows or max_batch_rows
        self._max_queue_rows = max(max_queue_rows, max_batch_rows)
        self._max_queue_delay_s = max_queue_delay_s
        self._max_inline_ns = max_inline_s * 1e9
        self._instance_count = instance_count
        self._min_parallel_rows = min_parallel_rows
        self._flush_scope = flush_scope or nullcontext()
        self._expected_ns: dict[int, float] = {}
        self._name = name
        self.statistics = Statistics()
        self._queue: deque[Request] = deque()
        self._urgent: list[tuple[int, int, Request]] = []  # those that name a priority: a heap, ahead of the queue
        self._waiting_since = 0.0
        self._order = itertools.count()
        self._queued_rows = 0
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._running = 0
        self._closed = False
        self._threads = [
            threading.Thread(target=self._serve, name=f"batcher {name}", daemon=True) for _ in range(instance_count)
        ]

    def __enter__(self) -> Self:
        """Starts to run."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the runs that are on, and answers what is left in the queue with Stopping."""
        with self._wake:
            self._closed = True
            left = [*(request for _, _, request in self._urgent), *self._queue]
            self._urgent, self._queue, self._queued_rows = [], deque(), 0
            self._wake.notify_all()
        for request in left:
            request.complete(Stopping("The server is stopping."))
        for thread in self._threads:
            thread.join()

    def submit(self, request: Request) -> None:
        """Queues the request; nothing runs before ``dispatch``, which sees to a whole burst of them.

        Raises Overloaded or Stopping, and then does not answer it.
        """
        with self._lock:  # a third of what the condition's own costs
            if self._closed:
                raise Stopping("The server is stopping.")
            if self._queued_rows + request.rows > self._max_queue_rows:
                raise Overloaded(
                    f"Exceeds maximum queue size: {self._queued_rows} rows wait for '{self._name}', "
                    f"{self._max_queue_rows} may. Try again later."
                )
            if self._max_queue_delay_s and not (self._queue or self._urgent):
                self._waiting_since = time.monotonic()
            if request.priority == LOWEST_PRIORITY:
                self._queue.append(request)
            else:
                heapq.heappush(self._urgent, (request.priority, next(self._order), request))
            self._queued_rows += request.rows
            request.queued = True

    @property
    def waiting(self) -> bool:
        """Whether anything is in the queue."""
        return bool(self._queue or self._urgent)

    def dispatch(self) -> bool:
        """Runs what has been queued, in this thread if that will be short, else in the batcher's; whether those run."""
        if not (self._queue or self._urgent):  # as most often, with several models
            return self._running > 0
        ends_ns = time.monotonic_ns() + self._max_inline_ns
        while self._queue or self._urgent:
            with self._wake:
                if self._running or not self._batch_is_ready() or not self._is_for_this_thread(ends_ns):
                    self._wake.notify()
                    return self._running > 0 or self._batch_is_ready()
                batch, expired = self._form_batch()
            self._process(batch, expired)
        return self._running > 0

    def stop_delaying(self) -> None:
        """Lets nothing wait for company any more, because none will come."""
        with self._wake:
            self._max_queue_delay_s = 0.0
            self._wake.notify()

    def cancel(self, request: Request) -> None:
        """Takes the request out if it has not run yet; its place in the queue is free at once."""
        with self._wake:
            if request.queued:
                request.queued = False
                request.inputs = {}  # its entry stays until the queue comes to it, its arrays need not
                self._queued_rows -= request.rows
        request.complete(Cancelled("The caller went away."))

    def _serve(self) -> None:
        while True:
            with self._wake:
                while not self._closed and not (self._has_room() and self._batch_is_ready()):
                    self._wake.wait(self._delay_left() if self._has_room() else None)
                if self._closed:
                    return
                batch, expired = self._form_batch()
                if self.waiting and self._has_room():
                    self._wake.notify()
            self._process(batch, expired)

    def _process(self, batch: list[Request], expired: list[Request]) -> None:
        """Answers what ``_form_batch`` took."""
        try:
            if expired:
                message = "Request timeout expired: it waited in the queue for longer than the caller allows."
                with self._flush_scope:
                    for request in expired:
                        self._refuse(request, Expired(message))
            if batch:
                self._execute(batch)
        finally:
            with self._wake:
                self._running -= 1
                if self.waiting:  # else the thread would wake to nothing, and take the first of the next burst alone
                    self._wake.notify()

    def _is_for_this_thread(self, ends_ns: float) -> bool:
        """Whether the next run is expected to end by then, and neither is nor leaves one to be run beside another.

        The first run of its size is never expected to be short.
        """
        first = self._urgent[0][2] if self._urgent else self._queue[0]
        rows = max(first.rows, min(self._queued_rows, self.preferred_batch_size))
        left = self._queued_rows - rows
        if self._instance_count > 1 and (rows > self._min_parallel_rows or left >= self._min_parallel_rows):
            return False
        return time.monotonic_ns() + self._expected_ns.get(rows.bit_length(), math.inf) <= ends_ns

    def _has_room(self) -> bool:
        """Whether one more run may be under way."""
        running = self._running
        return not running or (running < self._instance_count and self._queued_rows >= self._min_parallel_rows)

    def _batch_is_ready(self) -> bool:
        """Whether to run now: something waits, and fills a batch or has waited its delay."""
        return self.waiting and (self._queued_rows >= self.preferred_batch_size or self._delay_left() == 0.0)

    def _delay_left(self) -> float | None:
        """Seconds until what waits has waited its delay; None with an empty queue.

        What a run leaves behind for want of room keeps its time, so it is in the next run.
        """
        if not self.waiting:
            return None
        if not self._max_queue_delay_s:
            return 0.0
        return max(0.0, self._waiting_since + self._max_queue_delay_s - time.monotonic())

    def _form_batch(self) -> tuple[list[Request], list[Request]]:
        """Takes from the head what can be joined: the same shapes, up to the limit in rows; and what has expired."""
        self._running += 1
        batch: list[Request] = []
        expired: list[Request] = []
        queue, urgent = self._queue, self._urgent
        rows = 0
        now = time.monotonic()
        while urgent or queue:
            request = urgent[0][2] if urgent else queue[0]
            alive = request.queued and (request.deadline is None or now < request.deadline)
            if (
                alive
                and batch
                and (rows + request.rows > self.preferred_batch_size or request.signature != batch[0].signature)
            ):
                break
            if urgent:
                heapq.heappop(urgent)
            else:
                queue.popleft()
            if not request.queued:
                continue  # cancelled: its rows have been given back
            request.queued = False
            self._queued_rows -= request.rows
            if alive:
                batch.append(request)
                rows += request.rows
            else:
                expired.append(request)
        return batch, expired

    def _execute(self, batch: list[Request]) -> None:
        """Runs the batch and answers each request; if a joint run fails, each runs alone."""
        rows = sum(request.rows for request in batch)
        began = time.monotonic_ns()
        try:
            inputs = concatenate([request.inputs for request in batch])
            joined = time.monotonic_ns()
            outputs = self._run(inputs) if rows <= self._max_run_rows else self._run_in_parts(inputs, rows)
            ran = time.monotonic_ns()
            answers = split(outputs, [request.rows for request in batch])
        except Exception as error:
            if len(batch) > 1:
                for request in batch:
                    self._execute([request])
            else:
                self._refuse(batch[0], error)
            return
        ended = time.monotonic_ns()
        waited = [began - request.arrived_ns for request in batch]
        with self._lock:  # before the answers: a caller that has its answer finds itself counted
            self.statistics.ran(waited, rows, (began, joined, ran, ended))
        with self._flush_scope:
            for request, answer in zip(batch, answers, strict=True):
                request.complete(answer)
        expected = self._expected_ns.get(rows.bit_length(), ran - joined)
        self._expected_ns[rows.bit_length()] = expected + (ran - joined - expected) / 8

    def _run_in_parts(self, inputs: TensorMap, rows: int) -> TensorMap:
        """Runs a large request in parts: the values between two layers are then still in the cache for the next."""
        size = self._max_run_rows
        parts = [
            self._run({name: array[at : at + size] for name, array in inputs.items()}) for at in range(0, rows, size)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _refuse(self, request: Request, error: Exception) -> None:
        with self._lock:
            self.statistics.failed(time.monotonic_ns() - request.arrived_ns)
        request.complete(error)
