"""Many small requests become few large runs. Knows neither gRPC nor ONNX: rows of arrays, and a function to run.

While a run is on, the queue fills; the next run takes what is there, up to the limit in rows. So
batches form under load by themselves, and a lone request never waits.
"""

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

import numpy as np
import structlog

from service.errors import Cancelled, Expired, ModelFailed, Overloaded, Stopping
from service.statistics import Statistics
from service.tensors import Array

log = structlog.get_logger(__name__)

Rows = Mapping[str, Array]
"""Arrays by name; axis 0 counts the rows."""
LOWEST_PRIORITY = 2**32
"""That of a request which names none: behind all that do."""


class Request:
    """One request in flight: its rows, and its answer, which is given once and only if nobody has."""

    __slots__ = ("_done", "arrived_ns", "deadline", "inputs", "priority", "queued", "rows", "signature")

    def __init__(
        self,
        inputs: Rows,
        rows: int,
        done: Callable[[Rows | Exception], None],
        *,
        deadline: float | None = None,
        priority: int = LOWEST_PRIORITY,
    ) -> None:
        """``done`` gets the outputs or an error, once; ``deadline`` is on ``time.monotonic``'s clock."""
        self.inputs = inputs
        self.rows = rows
        self.deadline = deadline
        self.priority = priority
        self.signature = tuple(array.shape[1:] for array in inputs.values())
        self.queued = False
        self.arrived_ns = time.monotonic_ns()
        self._done = [done]

    @property
    def answered(self) -> bool:
        """Whether the answer has been given."""
        return not self._done

    def answer(self, outcome: Rows | Exception) -> bool:
        """Gives the answer; False if it was given before."""
        try:
            done = self._done.pop()  # atomic: of two threads that answer, one gets the callback
        except IndexError:
            return False
        try:
            done(outcome)
        except Exception:
            # A caller's callback must not take down the thread that answers everybody else.
            log.exception("answering a request failed")
        return True


class Batcher:
    """A bounded queue and one thread that runs what is in it. A context manager: leaving it drains nothing."""

    def __init__(
        self,
        run: Callable[[Rows], Rows],
        *,
        max_batch_rows: int,
        max_queue_rows: int,
        max_queue_delay_s: float = 0.0,
        name: str = "model",
    ) -> None:
        """``max_batch_rows`` 1 means that requests are never joined (a model without a batch axis)."""
        self._run = run
        self.max_batch_rows = max_batch_rows
        self._max_queue_rows = max(max_queue_rows, max_batch_rows)
        self._max_queue_delay_s = max_queue_delay_s
        self._name = name
        self.statistics = Statistics()
        self._queue: list[tuple[int, int, Request]] = []
        self._waiting_since = 0.0
        self._order = itertools.count()
        self._queued_rows = 0
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name=f"batcher {name}", daemon=True)

    def __enter__(self) -> Self:
        """Starts to run."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the run that is on, and answers what is left in the queue with Stopping."""
        with self._wake:
            self._closed = True
            left, self._queue, self._queued_rows = self._queue, [], 0
            self._wake.notify()
        for _, _, request in left:
            request.answer(Stopping("The server is stopping."))
        self._thread.join()

    def submit(self, request: Request) -> None:
        """Queues the request; raises Overloaded or Stopping and then does not answer it."""
        with self._wake:
            if self._closed:
                raise Stopping("The server is stopping.")
            if self._queued_rows + request.rows > self._max_queue_rows:
                raise Overloaded(
                    f"Exceeds maximum queue size: {self._queued_rows} rows wait for '{self._name}', "
                    f"{self._max_queue_rows} may. Try again later."
                )
            if not self._queue:
                self._waiting_since = time.monotonic()
            heapq.heappush(self._queue, (request.priority, next(self._order), request))
            self._queued_rows += request.rows
            request.queued = True
            self._wake.notify()

    def cancel(self, request: Request) -> None:
        """Takes the request out if it has not run yet; its place in the queue is free at once."""
        with self._wake:
            if request.queued:
                request.queued = False
                self._queued_rows -= request.rows
        request.answer(Cancelled("The caller went away."))

    def _serve(self) -> None:
        while (batch := self._next()) is not None:
            if batch:
                self._answer(batch)

    def _next(self) -> list[Request] | None:
        """Waits for requests and takes what fits in one run, maybe nothing; None when closed."""
        expired: list[Request] = []
        with self._wake:
            while not self._closed and not self._ripe():
                self._wake.wait(self._delay_left())
            if self._closed:
                return None
            batch = self._take(expired)
        for request in expired:
            self._refuse(
                request, Expired("Request timeout expired: it waited in the queue for longer than the caller allows.")
            )
        return batch

    def _ripe(self) -> bool:
        """Whether to run now: something waits, and fills a batch or has waited its delay."""
        return bool(self._queue) and (self._queued_rows >= self.max_batch_rows or self._delay_left() == 0.0)

    def _delay_left(self) -> float | None:
        """Seconds until what waits has waited its delay; None with an empty queue.

        What a run leaves behind for want of room keeps its time, so it is in the next run.
        """
        if not self._queue:
            return None
        return max(0.0, self._waiting_since + self._max_queue_delay_s - time.monotonic())

    def _take(self, expired: list[Request]) -> list[Request]:
        """Takes from the head what can be joined: the same shapes, up to the limit in rows."""
        batch: list[Request] = []
        rows = 0
        now = time.monotonic()
        while self._queue:
            request = self._queue[0][2]
            alive = request.queued and (request.deadline is None or now < request.deadline)
            fits = not batch or (rows + request.rows <= self.max_batch_rows and request.signature == batch[0].signature)
            if alive and not fits:
                break
            heapq.heappop(self._queue)
            if not request.queued:
                continue  # cancelled: its rows have been given back
            request.queued = False
            self._queued_rows -= request.rows
            if alive:
                batch.append(request)
                rows += request.rows
            else:
                expired.append(request)
        return batch

    def _answer(self, batch: list[Request]) -> None:
        """Runs the batch and answers each request; if a joint run fails, each runs alone."""
        began = time.monotonic_ns()
        try:
            inputs = _join(batch)
            joined = time.monotonic_ns()
            outputs = self._run(inputs)
            ran = time.monotonic_ns()
            answers = _split(outputs, batch)
        except Exception as error:
            if len(batch) > 1:
                for request in batch:
                    self._answer([request])
            else:
                self._refuse(batch[0], error)
            return
        waited = [began - request.arrived_ns for request in batch]
        rows = sum(request.rows for request in batch)
        self.statistics.ran(waited, rows, (began, joined, ran, time.monotonic_ns()))
        for request, answer in zip(batch, answers, strict=True):
            request.answer(answer)

    def _refuse(self, request: Request, error: Exception) -> None:
        self.statistics.failed(time.monotonic_ns() - request.arrived_ns)
        request.answer(error)


def _join(batch: list[Request]) -> Rows:
    """The inputs of all requests, one below the other; those of a lone request are not copied."""
    if len(batch) == 1:
        return batch[0].inputs
    return {name: np.concatenate([request.inputs[name] for request in batch]) for name in batch[0].inputs}


def _split(outputs: Rows, batch: list[Request]) -> list[Rows]:
    """Each request's rows of the outputs, as views."""
    if len(batch) == 1:
        return [outputs]
    ends = list(itertools.accumulate(request.rows for request in batch))
    for name, array in outputs.items():
        if array.shape[:1] != (ends[-1],):
            raise ModelFailed(f"output '{name}' has shape {array.shape} for {ends[-1]} rows")
    return [
        {name: array[end - request.rows : end] for name, array in outputs.items()}
        for request, end in zip(batch, ends, strict=True)
    ]
