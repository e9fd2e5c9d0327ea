"""A call of a deferred method that came over HTTP: its answer is given to the event loop, from any thread."""

import asyncio
import contextlib
import threading
from collections import deque

from ..rpc import Call, FlushScope
from .exchange import Exchange

Outcome = bytes | Exception


class Outcomes:
    """Outcomes of calls, from any thread, for the loop: it is woken up once for all that are given together."""

    def __init__(self, loop: asyncio.AbstractEventLoop, flush_scope: FlushScope) -> None:
        """In the loop's thread."""
        self._loop = loop
        self._thread = threading.get_ident()
        self._flush_scope = flush_scope
        self._waiting: deque[tuple[RestCall, Outcome]] = deque()
        self.flush_scheduled = False

    def add(self, call: "RestCall", outcome: Outcome) -> None:
        """Has a call settled, at once where this is the loop's thread."""
        if threading.get_ident() == self._thread:
            call.settle(outcome)
            return
        self._waiting.append((call, outcome))
        self._flush_scope.schedule_flush(self)

    def flush(self) -> None:
        """Wakes the loop up."""
        with contextlib.suppress(RuntimeError):  # it has ended, and every call with it
            self._loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        while self._waiting:
            call, outcome = self._waiting.popleft()
            call.settle(outcome)


class RestCall(Call):
    """A call whose answer is a future of the event loop; errors travel as values."""

    __slots__ = ("_exchange", "_outcomes", "_path", "answer")

    def __init__(
        self, path: str, payload: bytes, exchange: Exchange, outcomes: Outcomes, answer: "asyncio.Future[Outcome]"
    ) -> None:
        super().__init__(payload, exchange.timeout_s(), exchange.source)
        self._path = path
        self._exchange = exchange
        self._outcomes = outcomes
        self.answer = answer

    @property
    def path(self) -> str:
        """The full name of its method."""
        return self._path

    @property
    def peer_name(self) -> str:
        """The client's address."""
        return self._exchange.peer_name

    def metadata(self, name: str) -> str | None:
        """A header field of the request."""
        return self._exchange.header(name)

    def respond(self, payload: bytes) -> None:
        """Answers the call."""
        self._outcomes.add(self, payload)

    def fail(self, error: Exception) -> None:
        """Answers the call with an error."""
        self._outcomes.add(self, error)

    def settle(self, outcome: Outcome) -> None:
        """Sets the answer, unless there is one; in the loop's thread."""
        if not self.answer.done():
            self.answer.set_result(outcome)
