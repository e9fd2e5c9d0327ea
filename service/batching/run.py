"""A run of a model under way."""

import threading
import time
from collections.abc import Callable

from service.batching.request import Request


class Run:
    """One run under way: the requests whose rows it has, since when, and how it can be ended."""

    __slots__ = ("began_ns", "inline", "requests", "rows", "terminate", "thread")

    def __init__(self, requests: list[tuple[Request, int]]) -> None:
        """``requests``: each with the number of its rows that this run has."""
        self.requests = requests
        self.rows = sum(rows for _, rows in requests)
        self.began_ns = time.monotonic_ns()
        self.inline = False
        """True in the thread that dispatched."""
        self.thread = threading.get_ident()
        self.terminate: Callable[[], None] | None = None
        """Ends the run early; set by the function that runs, if it can."""

    @property
    def is_wanted(self) -> bool:
        """True while a caller waits for its outputs."""
        return not all(request.done for request, _ in self.requests)
