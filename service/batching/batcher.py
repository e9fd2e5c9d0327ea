"""Many small requests become few large runs. Knows neither gRPC nor ONNX: rows of arrays, and a function to run.

While a run is on, the queue fills; the next run takes what is there, up to the limit in rows. So batches form under
load by themselves, and a lone request never waits. A large request runs in parts, and others run between them.

A run that is expected to be short happens in the thread that brought the requests: handing it to another costs more
than it saves (docs/decisions). All others happen in the batcher's own threads, while the next requests are read.
"""

import math
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import TracebackType
from typing import Self

from ..errors import Cancelled, Expired, Stopping
from . import admission
from .batch import TensorMap, concatenate, split
from .estimate import RunTimes
from .policy import BatchingPolicy
from .queue import FairQueue
from .request import Request
from .run import Run
from .statistics import Statistics

EXPIRED = "Request timeout expired: it waited in the queue for longer than the caller allows."


class Batcher:
    """A bounded queue, and runs of what is in it. A context manager: leaving it runs nothing more."""

    def __init__(
        self,
        run: Callable[[TensorMap, Run], TensorMap],
        policy: BatchingPolicy,
        *,
        flush_scope: AbstractContextManager[None] | None = None,
        busy: threading.Event | None = None,
        name: str = "model",
    ) -> None:
        """All results of a run are delivered within ``flush_scope``; ``busy`` is set when a thread of ours runs one."""
        self._busy = busy or threading.Event()
        self._run = run
        self.policy = policy
        self.max_batch_rows = policy.max_batch_rows
        self.preferred_batch_size = policy.preferred_batch_size
        self._max_queue_delay_s = policy.max_queue_delay_s
        self._max_inline_ns = policy.max_inline_s * 1e9
        self._flush_scope = flush_scope or nullcontext()
        self._times = RunTimes()
        # So few waiting rows are within all limits but a deadline, and a deadline so far off is too.
        self._calm_rows, self._calm_ns = policy.max_batch_rows, 0.0
        self.name = name
        self.statistics = Statistics()
        self._queue = FairQueue()
        self._waiting_since = 0.0
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._runs: list[Run] = []
        self._closed = False
        self._retiring = False
        self._threads = [
            threading.Thread(target=self._serve, name=f"batcher {name}", daemon=True)
            for _ in range(policy.instance_count)
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
            left = self._queue.clear()
            self._wake.notify_all()
        for request in left:
            request.complete(Stopping("The server is stopping."))
        for thread in self._threads:
            thread.join()

    def retire(self) -> None:
        """Ends its threads once nothing waits; what still comes until then is run."""
        with self._wake:
            self._retiring = True
            self._max_queue_delay_s = 0.0
            self._wake.notify_all()

    @property
    def ended(self) -> bool:
        """True once all its threads have ended."""
        return not any(thread.is_alive() for thread in self._threads)

    def submit(self, request: Request) -> None:
        """Queues the request; nothing runs before ``dispatch``, which sees to a whole burst of them.

        Raises Overloaded or Stopping, and then does not complete it.
        """
        with self._lock:  # a third of what the condition's own costs
            if self._closed:
                raise Stopping("The server is stopping.")
            queue = self._queue
            # What follows is asked for each request of a burst, so first whether there is anything to ask.
            if queue.rows + request.rows > self._calm_rows or (
                request.deadline is not None
                and request.deadline * 1e9 - request.arrived_ns < self._calm_ns
                and (queue or self._runs)
            ):
                running = sum(run.rows for run in self._runs)
                if queue.rows or running:
                    admission.admit(request, queue, running, self._times.row_s, self.policy, self.name)
            if self._max_queue_delay_s and not queue:
                self._waiting_since = time.monotonic()
            queue.push(request)

    @property
    def queued_rows(self) -> int:
        """Rows that wait."""
        return self._queue.rows

    @property
    def runs(self) -> list[Run]:
        """The runs under way."""
        return self._runs.copy()

    def dispatch(self) -> bool:
        """Runs what has been queued, in this thread if that will be short, else in the batcher's.

        Returns True while the batcher's threads are at work.
        """
        if not self._queue:  # as most often, with several models
            return bool(self._runs)
        ends_ns = time.monotonic_ns() + self._max_inline_ns
        while self._queue:
            with self._wake:
                if self._runs or not self._batch_is_ready() or not self._is_for_this_thread(ends_ns):
                    self._wake.notify()
                    return bool(self._runs) or self._batch_is_ready()
                run, expired = self._form_batch()
            run.inline = True
            self._process(run, expired)
        return bool(self._runs)

    def stop_delaying(self) -> None:
        """Lets no request wait for others any more."""
        with self._wake:
            self._max_queue_delay_s = 0.0
            self._wake.notify()

    def cancel(self, request: Request) -> None:
        """Takes the request out if it has not run yet; a run that no caller waits for any more is ended."""
        self._drop(request, Cancelled("The caller went away."))

    def expire(self) -> None:
        """Answers what has waited for longer than its caller allows, be it in the queue or in a run."""
        now = time.monotonic()

        def is_late(request: Request) -> bool:
            return request.deadline is not None and request.deadline <= now and not request.done

        with self._lock:
            late = {request for request in self._queue if request.queued and is_late(request)}
            late.update(request for run in self._runs for request, _ in run.requests if is_late(request))
        if late:
            with self._flush_scope:
                for request in late:
                    self._drop(request, Expired(EXPIRED))

    def _drop(self, request: Request, error: Exception) -> None:
        with self._wake:
            if request.queued:
                self._queue.remove(request)
            run = request.run
        self._refuse(request, error)
        terminate = None if run is None else run.terminate
        if run is not None and terminate is not None and not run.is_wanted:
            terminate()

    def _serve(self) -> None:
        while True:
            with self._wake:
                while not self._closed and not (self._has_room() and self._batch_is_ready()):
                    if self._retiring and not self._queue and not self._runs:
                        return
                    self._wake.wait(self._delay_left() if self._has_room() else None)
                if self._closed:
                    return
                run, expired = self._form_batch()
                if self._queue and self._has_room():
                    self._wake.notify()
            if not self._busy.is_set():
                self._busy.set()
            self._process(run, expired)

    def _process(self, run: Run, expired: list[Request]) -> None:
        """Answers what ``_form_batch`` took."""
        for request, _ in run.requests:
            request.run = run  # so that the run is ended when no caller waits any more, and to tell how long it took
        try:
            if expired:
                with self._flush_scope:
                    for request in expired:
                        self._refuse(request, Expired(EXPIRED))
            if run.requests:
                self._execute(run)
        finally:
            self._finish(run)

    def _finish(self, run: Run) -> None:
        """Gives back what a run left of large requests, and wakes a thread for what waits."""
        with self._wake:
            self._runs.remove(run)
            unfinished = [request for request, _ in run.requests if request.rows_left and not request.done]
            run.finish()
            for request in () if self._closed else unfinished:
                self._queue.push(request)  # behind the others: they run between its parts
            if self._retiring:
                self._wake.notify_all()
            elif self._queue:  # else the thread would wake to nothing, and take the first of the next burst alone
                self._wake.notify()
        for request in unfinished if self._closed else ():
            request.complete(Stopping("The server is stopping."))

    def _is_for_this_thread(self, ends_ns: float) -> bool:
        """True if the next run is expected to end by then, and is neither one of several side by side.

        The first run of its size and shapes is never expected to be short.
        """
        if not self._max_inline_ns:
            return False
        policy, first, queued = self.policy, self._queue.peek(), self._queue.rows
        rows = max(min(first.rows_left, policy.max_run_rows), min(queued, policy.preferred_batch_size))
        if policy.instance_count > 1 and (rows > policy.min_parallel_rows or queued - rows >= policy.min_parallel_rows):
            return False
        return time.monotonic_ns() + self._times.expected_ns(first.signature, rows) <= ends_ns

    def _has_room(self) -> bool:
        """True if one more run may be under way."""
        running = len(self._runs)
        policy = self.policy
        return not running or (running < policy.instance_count and self._queue.rows >= policy.min_parallel_rows)

    def _batch_is_ready(self) -> bool:
        """True if something waits, and fills a batch or has waited its delay."""
        return bool(self._queue) and (self._queue.rows >= self.preferred_batch_size or self._delay_left() == 0.0)

    def _delay_left(self) -> float | None:
        """Seconds until what waits has waited its delay; None with an empty queue.

        What a run leaves behind for want of room keeps its time, so it is in the next run.
        """
        if not self._queue:
            return None
        if not self._max_queue_delay_s:
            return 0.0
        return max(0.0, self._waiting_since + self._max_queue_delay_s - time.monotonic())

    def _form_batch(self) -> tuple[Run, list[Request]]:
        """Takes from the queue what can share a run; and what has expired."""
        now = time.monotonic()
        policy = self.policy
        batch, expired = self._queue.take_batch(
            policy.preferred_batch_size,
            policy.max_run_rows,
            now,
            now + self._times.longest_ns / 1e9,
            partial(self._comes_too_late, now),
        )
        run = Run(batch)
        self._runs.append(run)
        return run, expired

    def _comes_too_late(self, now: float, request: Request) -> bool:
        """True if the request cannot be answered by its deadline, as far as can be told."""
        expected_ns = self._times.expected_ns(request.signature, request.rows_left)
        return request.deadline is not None and math.inf > expected_ns > (request.deadline - now) * 1e9

    def _execute(self, run: Run) -> None:
        """Runs the batch and completes each request; if a joint run fails, each runs alone."""
        batch, rows = run.requests, run.rows
        run.thread = threading.get_ident()
        began = time.monotonic_ns()
        try:
            inputs = concatenate([request.take(part) for request, part in batch])
            joined = time.monotonic_ns()
            outputs = self._run(inputs, run)
            ran = time.monotonic_ns()
            results = split(outputs, [part for _, part in batch])
            completed = [
                (request, result)
                for (request, part), piece in zip(batch, results, strict=True)
                if (result := piece if part == request.rows else request.add(piece)) is not None
            ]
        except Exception as error:
            self._fail(run, error)
            return
        ended = time.monotonic_ns()
        run.times_ns = began, joined, ran, ended
        with self._lock:
            others = bool(self._queue) or len(self._runs) > 1
            self._times.add(
                batch[0][0].signature,
                rows,
                ran - joined,
                (began, ended),
                is_full=rows >= self.preferred_batch_size,
                others_follow=others,
            )
            self._calm_rows, self._calm_ns = admission.calm_bounds(self.policy, self._times.row_s)
            self.statistics.ran(len(completed), rows, (began, joined, ran, ended))
            self.statistics.completed([request.arrived_ns for request, _ in completed], run.began_ns, ended)
            self.statistics.predicted(outputs)
        with self._flush_scope:
            for request, result in completed:
                request.complete(result)

    def _fail(self, run: Run, error: Exception) -> None:
        """Answers a request whose run failed; if several shared it, each runs alone, so that one harms no other."""
        if len(run.requests) == 1:
            request, _ = run.requests[0]
            request.rows_left = 0  # nothing of it is left to run
            self._refuse(request, error)
            return
        for request, part in run.requests:
            if not request.done:
                request.rows_left += part
                alone = Run([(request, part)])
                with self._lock:
                    self._runs.append(alone)
                    request.run = alone
                try:
                    self._execute(alone)
                finally:
                    with self._lock:
                        self._runs.remove(alone)
                        alone.finish()

    def _refuse(self, request: Request, error: Exception) -> None:
        if not request.done:
            with self._lock:
                self.statistics.failed(time.monotonic_ns() - request.arrived_ns)
            request.complete(error)
