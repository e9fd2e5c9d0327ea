"""Calls that tell how they went when they have their answer: a wrapper around the transport's own."""

import time
from collections.abc import Callable, Sequence

from ..errors import Cancelled
from ..rpc import Call, DeferredMethod, Methods
from ..rpc.status import count_failure
from .call_end import CallEnd

Observer = Callable[[CallEnd], None]


class ObservedCall(Call):
    """The same call for its method; its observers are told once, behind the answer."""

    __slots__ = ("_began_ns", "_call", "_observers")

    def __init__(self, call: Call, observers: Sequence[Observer]) -> None:
        super().__init__(call.payload, None, call.source)
        self.deadline = call.deadline
        self._call = call
        self._observers = [observers]
        self._began_ns = time.monotonic_ns()

    @property
    def path(self) -> str:
        """The full name of its method."""
        return self._call.path

    @property
    def peer_name(self) -> str:
        """The caller's address."""
        return self._call.peer_name

    def metadata(self, name: str) -> str | None:
        """Returns a field of the caller's metadata."""
        return self._call.metadata(name)

    def request_id(self, given: str = "") -> str:
        """The id by which the call is told of."""
        return self._call.request_id(given)

    def respond(self, payload: bytes) -> None:
        """Answers the call."""
        self._call.respond(payload)
        self._end(payload)

    def fail(self, error: Exception) -> None:
        """Answers the call with an error."""
        self._call.fail(error)
        self._end(error)

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Calls back when the caller has gone; that is the end of the call."""

        def cancel() -> None:
            callback()
            self._end(Cancelled("The caller went away."))

        self._call.on_cancel(cancel)

    def _end(self, result: bytes | Exception) -> None:
        self._call.model, self._call.request = self.model, self.request
        try:
            observers = self._observers.pop()  # atomic: of two threads that end it, one tells
        except IndexError:
            return
        end = CallEnd.of(self, result, self._began_ns)
        for observe in observers:
            observe(end)


def observed(methods: Methods, choose: Callable[[Call], Sequence[Observer]]) -> Methods:
    """The same methods; each call of a deferred one is told to the observers that are chosen for it."""

    def wrap(_path: str, method: DeferredMethod) -> DeferredMethod:
        def call_observed(call: Call) -> None:
            observers = choose(call)
            if not observers:
                method(call)
                return
            watched = ObservedCall(call, observers)
            try:
                method(watched)
            except Exception as error:  # as the transport would have it counted and answered
                count_failure(error, call.deadline)
                watched.fail(error)

        return call_observed

    return methods.map_deferred(wrap)
