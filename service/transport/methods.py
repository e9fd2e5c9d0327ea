"""What the native transport serves, by path: hot and cold methods, streams, and what every gRPC server has besides."""

from collections import deque
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from service.errors import InvalidRequest, UnknownModel
from service.http2.incoming import Exchange, Incoming, Method, Streaming, Unary
from service.status import status_of
from service.transport.call import Call, ColdMethod, HotMethod, Methods, StreamMethod, Traffic

STREAM_AHEAD = 64
"""Most requests of one stream in flight, before its client is left to wait."""


class Desk:
    """Finds what serves a path."""

    def __init__(self, methods: Methods, traffic: Traffic, soon: Callable[[Callable[[], None]], None]) -> None:
        """``soon`` has something done by the thread that receives."""
        self._health = health.HealthServicer()
        names = (*methods.services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        self._methods: dict[str, Method] = {
            **{path: _Hot(method, traffic) for path, method in methods.hot.items()},
            **{path: _Cold(method) for path, method in methods.cold.items()},
            **{path: _Stream(method, traffic, soon) for path, method in methods.streams.items()},
            f"/{health.SERVICE_NAME}/Check": _Cold(ColdMethod(health_pb2.HealthCheckRequest, self._check)),
            f"/{health.SERVICE_NAME}/Watch": _Watch(self._health),
            f"/{reflection.SERVICE_NAME}/ServerReflectionInfo": _Reflection(reflection.ReflectionServicer(names)),
        }

    def find(self, path: str) -> Method | None:
        """What serves this path."""
        return self._methods.get(path)

    def set_ready(self, serving: Mapping[str, bool]) -> None:
        """Tells the health protocol which names are serving."""
        states = health_pb2.HealthCheckResponse
        for name, ready in serving.items():
            self._health.set(name, states.SERVING if ready else states.NOT_SERVING)

    def _check(self, request: health_pb2.HealthCheckRequest) -> Message:
        context = _Context()
        response: Message = self._health.Check(request, context)  # type: ignore[arg-type]  # all that it asks for
        if context.code is not None:
            raise UnknownModel(f"nothing is known by the name {request.service!r}")
        return response


class _Context:
    """As much of grpcio's as the library's health service asks for."""

    def __init__(self) -> None:
        self.code: grpc.StatusCode | None = None
        self.on_close: Callable[[], None] | None = None

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def add_callback(self, callback: Callable[[], None]) -> None:
        self.on_close = callback


class _Hot(Unary):
    """A method whose calls are answered later, from any thread."""

    def __init__(self, method: HotMethod, traffic: Traffic) -> None:
        self._method = method
        self._traffic = traffic

    def call(self, connection: Incoming, stream: int, timeout_s: float | None, payload: bytes) -> None:
        call = _NativeCall(payload, timeout_s, connection, stream, self._traffic)
        connection.streams[stream] = call
        self._traffic.serve(call, call, self._method)


class _NativeCall(Call):
    """A call known to its connection by the number of its stream."""

    __slots__ = ("_connection", "_stream", "_traffic")

    def __init__(
        self, payload: bytes, timeout_s: float | None, connection: Incoming, stream: int, traffic: Traffic
    ) -> None:
        Call.__init__(self, payload, timeout_s)
        self._connection = connection
        self._stream = stream
        self._traffic = traffic

    def respond(self, payload: bytes) -> None:
        self._connection.answer(self._stream, payload)
        self._traffic.finished(self)

    def fail(self, error: Exception) -> None:
        code, message = status_of(error)
        self._connection.finish(self._stream, code.value[0], message)
        self._traffic.finished(self)

    def cancel(self) -> None:
        self._traffic.finished(self)
        super().cancel()


class _Cold(Unary):
    """A method that answers at once."""

    def __init__(self, method: ColdMethod) -> None:
        self._method = method

    def call(self, connection: Incoming, stream: int, timeout_s: float | None, payload: bytes) -> None:  # noqa: ARG002 - it takes no time
        connection.streams[stream] = _ANSWERED
        try:
            answer = self._method.answer(_parse(self._method.request, payload)).SerializeToString()
        except Exception as error:
            code, message = status_of(error)
            connection.finish(stream, code.value[0], message)
        else:
            connection.answer(stream, answer)


class _Answered:
    """A request that has its answer."""

    def cancel(self) -> None:
        """There is nothing to stop."""


_ANSWERED = _Answered()


class _Stream(Streaming):
    """A stream whose messages are calls of a hot method."""

    def __init__(self, method: StreamMethod, traffic: Traffic, soon: Callable[[Callable[[], None]], None]) -> None:
        self._method = method
        self._traffic = traffic
        self._soon = soon

    def open(self, connection: Incoming, stream: int, timeout_s: float | None) -> Exchange:
        return _Conversation(self._method, self._traffic, self._soon, connection, stream, timeout_s)


class _Conversation(Exchange):
    """One such stream; its answers go out in the order of its requests."""

    def __init__(
        self,
        method: StreamMethod,
        traffic: Traffic,
        soon: Callable[[Callable[[], None]], None],
        connection: Incoming,
        stream: int,
        timeout_s: float | None,
    ) -> None:
        self._method = method
        self._traffic = traffic
        self._soon = soon
        self._connection = connection
        self._stream = stream
        self._timeout_s = timeout_s
        self._calls: deque[_StreamCall] = deque()  # in flight
        self._ahead: deque[bytes] = deque()  # what the client had been allowed to send by then
        self._going_on = False
        self._lock = Lock()
        self._ended = False

    @property
    def full(self) -> bool:
        return len(self._calls) >= STREAM_AHEAD or bool(self._ahead)

    def take(self, payload: bytes) -> None:
        if self.full:
            self._ahead.append(payload)
        else:
            self._serve(payload)

    def end(self) -> None:
        self._ended = True
        self.send()

    def cancel(self) -> None:
        with self._lock:
            calls = list(self._calls)
            self._calls.clear()
            self._ahead.clear()
        for call in calls:
            self._traffic.cancel(call)

    def send(self) -> None:
        """Sends the answers that are there, up to the first that is not."""
        with self._lock:
            calls = self._calls
            while calls and (answer := calls[0].answer) is not None:
                self._connection.send(self._stream, self._method.wrap(answer))
                self._traffic.finished(calls.popleft())
            if self._ended and not calls and not self._ahead:
                self._connection.finish(self._stream)
            elif len(calls) <= STREAM_AHEAD // 2 and not self._going_on:
                self._going_on = True
                self._soon(self._go_on)

    def _serve(self, payload: bytes) -> None:
        call = _StreamCall(payload, self._timeout_s, self)
        self._calls.append(call)
        self._traffic.serve(call, call, self._method.method)

    def _go_on(self) -> None:
        """Serves what had to wait, and lets the client send more; in the thread that receives."""
        self._going_on = False
        while self._ahead and len(self._calls) < STREAM_AHEAD:
            self._serve(self._ahead.popleft())
        if not self.full:
            self._connection.make_room(self._stream)


class _StreamCall(Call):
    """A request in a stream, and its answer once there is one: an error is the sentence that says why."""

    __slots__ = ("_conversation", "answer")

    def __init__(self, payload: bytes, timeout_s: float | None, conversation: _Conversation) -> None:
        super().__init__(payload, timeout_s)
        self._conversation = conversation
        self.answer: bytes | str | None = None

    def respond(self, payload: bytes) -> None:
        self.answer = payload
        self._conversation.send()

    def fail(self, error: Exception) -> None:
        self.answer = status_of(error)[1]
        self._conversation.send()


class _Watch(Streaming):
    """The health of a name, and each change of it."""

    def __init__(self, servicer: health.HealthServicer) -> None:
        self._servicer = servicer

    def open(self, connection: Incoming, stream: int, timeout_s: float | None) -> Exchange:  # noqa: ARG002 - the client ends it
        return _Watcher(self._servicer, connection, stream)


class _Watcher(Exchange):
    full = False

    def __init__(self, servicer: health.HealthServicer, connection: Incoming, stream: int) -> None:
        self._servicer = servicer
        self._connection = connection
        self._stream = stream
        self._context = _Context()

    def take(self, payload: bytes) -> None:
        if self._context.on_close is not None:
            raise InvalidRequest("a health watch takes one message, and this is the second")
        request = _parse(health_pb2.HealthCheckRequest, payload)
        self._servicer.Watch(request, self._context, self._send)  # type: ignore[arg-type]  # as above

    def end(self) -> None:
        if self._context.on_close is None:
            raise InvalidRequest("the request has no message")

    def cancel(self) -> None:
        if self._context.on_close is not None:
            self._context.on_close()

    def _send(self, response: Message | None) -> None:
        if response is not None:
            self._connection.send(self._stream, response.SerializeToString())


class _Reflection(Streaming):
    """What is served here, for clients that have no .proto file."""

    def __init__(self, servicer: reflection.ReflectionServicer) -> None:
        self._servicer = servicer

    def open(self, connection: Incoming, stream: int, timeout_s: float | None) -> Exchange:  # noqa: ARG002 - it takes no time
        return _Reflected(self._servicer, connection, stream)


class _Reflected(Exchange):
    full = False

    def __init__(self, servicer: reflection.ReflectionServicer, connection: Incoming, stream: int) -> None:
        self._servicer = servicer
        self._connection = connection
        self._stream = stream

    def take(self, payload: bytes) -> None:
        requests = iter([_parse(reflection_pb2.ServerReflectionRequest, payload)])
        servicer: Any = self._servicer  # its stubs know no generators
        for response in servicer.ServerReflectionInfo(requests, None):
            self._connection.send(self._stream, response.SerializeToString())

    def end(self) -> None:
        self._connection.finish(self._stream)

    def cancel(self) -> None:
        pass


def _parse(kind: type[Message], payload: bytes) -> Any:
    try:
        return kind.FromString(payload)
    except DecodeError as error:
        raise InvalidRequest(f"the message is no {kind.DESCRIPTOR.full_name}: {error}") from error
