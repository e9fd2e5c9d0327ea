"""A run of a model under way."""

import threading
import time
from collections.abc import Callable

from .request import Request


class Run:
    """One run under way: the requests whose rows it has, since when, and how it can be ended."""

    __slots__ = ("began_ns", "inline", "requests", "rows", "terminate", "thread", "times_ns")

    def __init__(self, requests: list[tuple[Request, int]]) -> None:
        """``requests``: each with the number of its rows that this run has."""
        self.requests = requests
        self.rows = sum(rows for _, rows in requests)
        self.began_ns = time.monotonic_ns()
        self.inline = False
        """True in the thread that dispatched."""
        self.thread = threading.get_ident()
        self.times_ns: tuple[int, int, int, int] | None = None
        """Once it has succeeded: when it began, its rows were joined, had run, and were split."""
        self.terminate: Callable[[], None] | None = None
        """Ends the run early; set by the function that runs, if it can."""

    def finish(self) -> None:
        """Lets go of the requests, each of which may hold this run for longer than it lasts."""
        self.terminate = None
        self.requests = []

    @property
    def is_wanted(self) -> bool:
        """True while a caller waits for its outputs."""
        return not all(request.done for request, _ in self.requests)
