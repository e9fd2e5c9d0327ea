"""What the native transport serves, by path."""

from collections.abc import Callable

from service.http2.requests import Connection, Method, Unary
from service.rpc.builtin_services import HEALTH, REFLECTION, Health, Reflection, parse
from service.rpc.call import Call, DeferredMethod, ImmediateMethod, Methods
from service.rpc.inflight import InFlightCalls
from service.rpc.streaming import BidiStreaming


class Router:
    """Finds what serves a path."""

    def __init__(self, methods: Methods, inflight: InFlightCalls, soon: Callable[[Callable[[], None]], None]) -> None:
        """``soon`` has something done by the thread that receives."""
        self.health = Health()
        names = (*methods.services, HEALTH, REFLECTION)
        self._methods: dict[str, Method] = {
            **{path: _Deferred(method, inflight) for path, method in methods.deferred.items()},
            **{path: _Immediate(method) for path, method in methods.immediate.items()},
            **{path: BidiStreaming(method, inflight, soon) for path, method in methods.bidi.items()},
            f"/{HEALTH}/Check": _Immediate(self.health.check),
            f"/{HEALTH}/Watch": self.health.watch,
            f"/{REFLECTION}/ServerReflectionInfo": Reflection(names),
        }

    def find(self, path: str) -> Method | None:
        """What serves this path."""
        return self._methods.get(path)


class _Deferred(Unary):
    """A method whose calls are answered later, from any thread."""

    def __init__(self, method: DeferredMethod, inflight: InFlightCalls) -> None:
        self._method = method
        self._inflight = inflight

    def call(self, connection: Connection, stream: int, timeout_s: float | None, payload: bytes) -> None:
        call = _NativeCall(payload, timeout_s, connection, stream, self._inflight)
        connection.streams[stream] = call
        self._inflight.serve(call, call, self._method)


class _NativeCall(Call):
    """A call known to its connection by the number of its stream."""

    __slots__ = ("_connection", "_inflight", "_stream")

    def __init__(
        self, payload: bytes, timeout_s: float | None, connection: Connection, stream: int, inflight: InFlightCalls
    ) -> None:
        Call.__init__(self, payload, timeout_s)
        self._connection = connection
        self._stream = stream
        self._inflight = inflight

    def respond(self, payload: bytes) -> None:
        self._connection.answer(self._stream, payload)
        self._inflight.finished(self)

    def fail(self, error: Exception) -> None:
        self._connection.fail(self._stream, error)
        self._inflight.finished(self)

    def cancel(self) -> None:
        self._inflight.finished(self)
        super().cancel()


class _Immediate(Unary):
    """A method that answers at once."""

    def __init__(self, method: ImmediateMethod) -> None:
        self._method = method

    def call(self, connection: Connection, stream: int, timeout_s: float | None, payload: bytes) -> None:  # noqa: ARG002 - it takes no time
        connection.streams[stream] = _ANSWERED
        try:
            answer = self._method.answer(parse(self._method.request, payload)).SerializeToString()
        except Exception as error:
            connection.fail(stream, error)
        else:
            connection.answer(stream, answer)


class _Answered:
    """A request that has its answer."""

    def cancel(self) -> None:
        """There is nothing to stop."""


_ANSWERED = _Answered()
