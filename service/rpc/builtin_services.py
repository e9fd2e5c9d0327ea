"""What every gRPC server has besides its own methods: health and reflection, by the libraries' services."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from service.errors import InvalidRequest, UnknownModel
from service.http2.requests import Connection, Exchange, Streaming
from service.rpc.call import ImmediateMethod

HEALTH, REFLECTION = health.SERVICE_NAME, reflection.SERVICE_NAME


class Health:
    """Which names are serving."""

    def __init__(self) -> None:
        self._servicer = health.HealthServicer()
        self.check = ImmediateMethod(health_pb2.HealthCheckRequest, self._check)
        self.watch = _Watch(self._servicer)

    def set_ready(self, serving: Mapping[str, bool]) -> None:
        """Tells all who ask and who watch."""
        states = health_pb2.HealthCheckResponse
        for name, ready in serving.items():
            self._servicer.set(name, states.SERVING if ready else states.NOT_SERVING)

    def _check(self, request: health_pb2.HealthCheckRequest) -> Message:
        context = _Context()
        response: Message = self._servicer.Check(request, context)  # type: ignore[arg-type]  # all that it asks for
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


class _Watch(Streaming):
    """The health of a name, and each change of it."""

    def __init__(self, servicer: health.HealthServicer) -> None:
        self._servicer = servicer

    def open(self, connection: Connection, stream: int, timeout_s: float | None) -> Exchange:  # noqa: ARG002 - the client ends it
        return _Watcher(self._servicer, connection, stream)


class _Watcher(Exchange):
    def __init__(self, servicer: health.HealthServicer, connection: Connection, stream: int) -> None:
        self._servicer = servicer
        self._connection = connection
        self._stream = stream
        self._context = _Context()

    def take(self, payload: bytes) -> None:
        if self._context.on_close is not None:
            raise InvalidRequest("a health watch takes one message, and this is the second")
        request = parse(health_pb2.HealthCheckRequest, payload)
        self._servicer.Watch(request, self._context, self._send)  # type: ignore[arg-type]  # as above

    def end(self) -> None:
        if self._context.on_close is None:
            raise InvalidRequest("the request has no message")

    def holds_back(self) -> bool:
        return False

    def cancel(self) -> None:
        if self._context.on_close is not None:
            self._context.on_close()

    def _send(self, response: Message | None) -> None:
        if response is not None:
            self._connection.send(self._stream, response.SerializeToString())


class Reflection(Streaming):
    """What is served here, for clients that have no .proto file."""

    def __init__(self, services: Sequence[str]) -> None:
        self._servicer = reflection.ReflectionServicer(services)

    def open(self, connection: Connection, stream: int, timeout_s: float | None) -> Exchange:  # noqa: ARG002 - it takes no time
        """Each message is a question, answered at once."""
        return _Reflected(self._servicer, connection, stream)


class _Reflected(Exchange):
    def __init__(self, servicer: reflection.ReflectionServicer, connection: Connection, stream: int) -> None:
        self._servicer = servicer
        self._connection = connection
        self._stream = stream

    def take(self, payload: bytes) -> None:
        requests = iter([parse(reflection_pb2.ServerReflectionRequest, payload)])
        servicer: Any = self._servicer  # its stubs know no generators
        for response in servicer.ServerReflectionInfo(requests, None):
            self._connection.send(self._stream, response.SerializeToString())

    def end(self) -> None:
        self._connection.finish(self._stream)

    def holds_back(self) -> bool:
        return False

    def cancel(self) -> None:
        """Every question has its answer already."""


def parse(kind: type[Message], payload: bytes) -> Any:
    """A message of this kind; raises InvalidRequest."""
    try:
        return kind.FromString(payload)
    except DecodeError as error:
        raise InvalidRequest(f"the message is no {kind.DESCRIPTOR.full_name}: {error}") from error
