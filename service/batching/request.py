"""A request in flight, as the batcher knows it: its rows, and the callback that takes its result."""

import time
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Final

import numpy as np
import structlog

from ..errors import ModelFailed
from .batch import TensorMap

if TYPE_CHECKING:
    from .run import Run

log = structlog.get_logger(__name__)

LOWEST_PRIORITY: Final = 2**32
"""That of a request which names none: behind all that do."""


class Request:
    """One request in flight: its rows, and its result, which is delivered once."""

    __slots__ = (
        "_callback",
        "_pieces",
        "arrived_ns",
        "deadline",
        "inputs",
        "priority",
        "queued",
        "rows",
        "rows_left",
        "run",
        "signature",
        "source",
    )

    def __init__(  # noqa: PLR0913 - one is made for each request: another object would cost 0.3 µs
        self,
        inputs: TensorMap,
        rows: int,
        callback: Callable[[TensorMap | Exception], None],
        *,
        signature: Hashable,
        deadline: float | None = None,
        priority: int = LOWEST_PRIORITY,
        source: Hashable = None,
    ) -> None:
        """``callback`` gets the outputs or an error, once; ``deadline`` is on ``time.monotonic``'s clock.

        Only requests of one ``signature`` share a run: it tells the shapes of their rows. ``source`` is the caller's
        connection: those of one model take turns.
        """
        self.inputs = inputs
        self.rows = rows
        self.rows_left = rows
        """Rows that no run has taken yet."""
        self.deadline = deadline
        self.priority = priority
        self.signature = signature
        self.source = source
        self.queued = False
        """True while it has rows in the queue."""
        self.run: Run | None = None
        """The run that has its rows now, or had them last."""
        self.arrived_ns = time.monotonic_ns()
        self._callback = [callback]
        self._pieces: list[TensorMap] | None = None

    @property
    def done(self) -> bool:
        """True once the result has been delivered."""
        return not self._callback

    def take(self, rows: int) -> TensorMap:
        """The inputs of the next rows, which are then taken."""
        begin = self.rows - self.rows_left
        self.rows_left -= rows
        if rows == self.rows:
            return self.inputs
        return {name: array[begin : begin + rows] for name, array in self.inputs.items()}

    def add(self, outputs: TensorMap) -> TensorMap | None:
        """Takes the outputs of a part of the rows; returns those of the whole request once all rows ran."""
        if self._pieces is None:
            self._pieces = []
        self._pieces.append(outputs)
        if self.rows_left:
            return None
        try:
            return {name: np.concatenate([piece[name] for piece in self._pieces]) for name in outputs}
        except ValueError as error:  # it is not to be run again: some of its pieces are there
            self.complete(ModelFailed(f"its parts gave outputs that do not fit together: {error}"))
            return None

    def complete(self, result: TensorMap | Exception) -> bool:
        """Delivers the result; returns False if one was delivered before."""
        try:
            callback = self._callback.pop()  # atomic: of two threads that complete it, one gets the callback
        except IndexError:
            return False
        try:
            callback(result)
        except Exception:
            # A caller's callback must not take down the thread that completes all others.
            log.exception("delivering a result failed")
        return True
