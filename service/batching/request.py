"""A request in flight, as the batcher knows it: its rows, and who gets the answer."""

import time
from collections.abc import Callable, Hashable

import structlog

from service.batching.batch import TensorMap

log = structlog.get_logger(__name__)

LOWEST_PRIORITY = 2**32
"""That of a request which names none: behind all that do."""


class Request:
    """One request in flight: its rows, and its answer, which is given once and only if nobody has."""

    __slots__ = ("_callback", "arrived_ns", "deadline", "inputs", "priority", "queued", "rows", "signature")

    def __init__(
        self,
        inputs: TensorMap,
        rows: int,
        callback: Callable[[TensorMap | Exception], None],
        *,
        signature: Hashable,
        deadline: float | None = None,
        priority: int = LOWEST_PRIORITY,
    ) -> None:
        """``callback`` gets the outputs or an error, once; ``deadline`` is on ``time.monotonic``'s clock.

        Only requests of one ``signature`` share a run: it tells the shapes of their rows.
        """
        self.inputs = inputs
        self.rows = rows
        self.deadline = deadline
        self.priority = priority
        self.signature = signature
        self.queued = False
        self.arrived_ns = time.monotonic_ns()
        self._callback = [callback]

    @property
    def done(self) -> bool:
        """Whether the answer has been given."""
        return not self._callback

    def complete(self, result: TensorMap | Exception) -> bool:
        """Gives the answer; False if it was given before."""
        try:
            callback = self._callback.pop()  # atomic: of two threads that answer, one gets the callback
        except IndexError:
            return False
        try:
            callback(result)
        except Exception:
            # A caller's callback must not take down the thread that answers everybody else.
            log.exception("answering a request failed")
        return True
