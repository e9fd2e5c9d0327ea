"""Streams on the native transport; all of it runs in the loop's thread."""

from abc import abstractmethod
from collections import deque
from typing import Any, Protocol

from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from ..errors import InvalidRequest
from ..http2.sender import STREAM_PENDING_BYTES
from .builtin_services import Health, Reflection, parse
from .call import STREAM_AHEAD, BidiMethod, Call
from .handlers import Responder, StreamingCall, StreamingMethod
from .inflight import InFlightCalls
from .status import status_of


class DeliverableCall(Call):
    """A call whose outcome the loop's thread takes."""

    __slots__ = ()

    @abstractmethod
    def deliver(self, outcome: bytes | Exception) -> None:
        """Takes it."""


class Outcomes(Protocol):
    """Where outcomes are left, by any thread."""

    def add(self, call: DeliverableCall, outcome: bytes | Exception) -> None:
        """Has it delivered."""


class BidiStreaming(StreamingMethod):
    """A stream whose messages are calls of a deferred method."""

    def __init__(self, method: BidiMethod, inflight: InFlightCalls, outcomes: Outcomes) -> None:
        self.method = method
        self.inflight = inflight
        self.outcomes = outcomes

    def open(self, responder: Responder) -> StreamingCall:
        """Each message is a call."""
        return _BidiCall(self, responder)


class _BidiCall(StreamingCall):
    """One such stream; its answers go out in the order of its requests."""

    def __init__(self, method: BidiStreaming, responder: Responder) -> None:
        self.method = method
        self.responder = responder
        self._calls: deque[_StreamCall] = deque()  # in flight
        self._paused = False
        self._half_closed = False

    def on_message(self, payload: bytes) -> None:
        call = _StreamCall(payload, self)
        self._calls.append(call)
        self._pause_or_resume()
        self.method.inflight.serve(call, call, self.method.method.method)

    def on_half_close(self) -> None:
        self._half_closed = True
        self._send()

    def on_drained(self) -> None:
        self._pause_or_resume()

    def cancel(self) -> None:
        calls = list(self._calls)
        self._calls.clear()
        for call in calls:
            self.method.inflight.cancel(call)

    def delivered(self) -> None:
        """Sends the answers that are there, up to the first that is not."""
        self._send()
        self._pause_or_resume()

    def _send(self) -> None:
        calls = self._calls
        while calls and (answer := calls[0].answer) is not None:
            self.responder.send(self.method.method.wrap(calls[0].payload, answer))
            self.method.inflight.finished(calls.popleft())
        if self._half_closed and not calls:
            self.responder.finish()

    def _pause_or_resume(self) -> None:
        waits = self.responder.stream.pending_bytes
        if not self._paused:
            if len(self._calls) >= STREAM_AHEAD or waits > STREAM_PENDING_BYTES:
                self._paused = True
                self.responder.pause()
        elif len(self._calls) <= STREAM_AHEAD // 2 and waits <= STREAM_PENDING_BYTES // 2:
            self._paused = False
            self.responder.resume()


class _StreamCall(DeliverableCall):
    """A request in a stream, and its answer once there is one: an error is the sentence that says why."""

    __slots__ = ("_bidi_call", "answer")

    def __init__(self, payload: bytes, bidi_call: _BidiCall) -> None:
        super().__init__(payload, None, bidi_call.responder.peer)
        self.deadline = bidi_call.responder.stream.deadline
        self._bidi_call = bidi_call
        self.answer: bytes | str | None = None

    @property
    def path(self) -> str:
        return self._bidi_call.responder.stream.head.path

    @property
    def peer_name(self) -> str:
        return self._bidi_call.responder.peer.name

    def metadata(self, name: str) -> str | None:
        return self._bidi_call.responder.stream.head.metadata(name)

    def respond(self, payload: bytes) -> None:
        self._bidi_call.method.outcomes.add(self, payload)

    def fail(self, error: Exception) -> None:
        self._bidi_call.method.outcomes.add(self, error)

    def deliver(self, outcome: bytes | Exception) -> None:
        """Takes the outcome; in the loop's thread."""
        self.answer = outcome if isinstance(outcome, bytes) else status_of(outcome, self.request_id).message
        self._bidi_call.delivered()


class HealthWatch(StreamingMethod):
    """The health of a name, and each change of it."""

    def __init__(self, health: Health) -> None:
        self._health = health

    def open(self, responder: Responder) -> StreamingCall:
        """One message says the name."""
        return _Watcher(self._health, responder)


class _Watcher(StreamingCall):
    def __init__(self, health: Health, responder: Responder) -> None:
        self._health = health
        self._responder = responder
        self._name: str | None = None

    def on_message(self, payload: bytes) -> None:
        if self._name is not None:
            raise InvalidRequest("a health watch takes one message, and this is the second")
        name: str = parse(health_pb2.HealthCheckRequest, payload).service
        self._health.watch(name, self._send)
        self._name = name

    def on_half_close(self) -> None:
        if self._name is None:
            raise InvalidRequest("the request has no message")

    def on_drained(self) -> None:
        """States are small and few."""

    def cancel(self) -> None:
        if self._name is not None:
            self._health.unwatch(self._name, self._send)

    def _send(self, state: Message) -> None:
        self._responder.send(state.SerializeToString())


class ReflectionStream(StreamingMethod):
    """What is served here, for clients that have no .proto file."""

    def __init__(self, reflection: Reflection) -> None:
        self._reflection = reflection

    def open(self, responder: Responder) -> StreamingCall:
        """Each message is a question, answered at once."""
        return _Reflected(self._reflection, responder)


class _Reflected(StreamingCall):
    def __init__(self, reflection: Reflection, responder: Responder) -> None:
        self._reflection = reflection
        self._responder = responder
        self._paused = False

    def on_message(self, payload: bytes) -> None:
        question: Any = parse(reflection_pb2.ServerReflectionRequest, payload)
        for response in self._reflection.answer(question):
            self._responder.send(response.SerializeToString())
        if self._responder.stream.pending_bytes > STREAM_PENDING_BYTES:
            self._paused = True
            self._responder.pause()

    def on_half_close(self) -> None:
        self._responder.finish()

    def on_drained(self) -> None:
        if self._paused:
            self._paused = False
            self._responder.resume()

    def cancel(self) -> None:
        """Every question has its answer already."""
