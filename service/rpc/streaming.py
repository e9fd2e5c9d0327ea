"""A stream whose messages are calls of a deferred method, on the native transport."""

from collections import deque
from collections.abc import Callable
from threading import Lock

from service.http2.requests import Connection, Exchange, Streaming
from service.rpc.call import STREAM_AHEAD, BidiMethod, Call
from service.rpc.inflight import InFlightCalls
from service.rpc.status import status_of


class BidiStreaming(Streaming):
    """A stream whose messages are calls of a deferred method."""

    def __init__(self, method: BidiMethod, inflight: InFlightCalls, soon: Callable[[Callable[[], None]], None]) -> None:
        self._method = method
        self._inflight = inflight
        self._call_soon_threadsafe = soon

    def open(self, connection: Connection, stream: int, timeout_s: float | None) -> Exchange:
        """Each message is a call."""
        return _BidiCall(self._method, self._inflight, self._call_soon_threadsafe, connection, stream, timeout_s)


class _BidiCall(Exchange):
    """One such stream; its answers go out in the order of its requests."""

    def __init__(
        self,
        method: BidiMethod,
        inflight: InFlightCalls,
        soon: Callable[[Callable[[], None]], None],
        connection: Connection,
        stream: int,
        timeout_s: float | None,
    ) -> None:
        self._method = method
        self._inflight = inflight
        self._call_soon_threadsafe = soon
        self._connection = connection
        self._stream = stream
        self._timeout_s = timeout_s
        self._calls: deque[_StreamCall] = deque()  # in flight
        self._ahead: deque[bytes] = deque()  # what the client had been allowed to send by then
        self._held_back = False  # whether the client was told to wait
        self._going_on = False
        self._lock = Lock()
        self._ended = False

    def holds_back(self) -> bool:
        with self._lock:
            self._held_back = self._full
            return self._held_back

    def take(self, payload: bytes) -> None:
        with self._lock:  # so that whoever gives the last answer finds what is put aside
            if self._full:
                self._ahead.append(payload)
                return
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
            self._inflight.cancel(call)

    def send(self) -> None:
        """Sends the answers that are there, up to the first that is not."""
        with self._lock:
            calls = self._calls
            while calls and (answer := calls[0].answer) is not None:
                self._connection.send(self._stream, self._method.wrap(calls[0].payload, answer))
                self._inflight.finished(calls.popleft())
            if self._ended and not calls and not self._ahead:
                self._connection.finish(self._stream)
            elif (self._ahead or self._held_back) and len(calls) <= STREAM_AHEAD // 2 and not self._going_on:
                self._going_on = True
                self._call_soon_threadsafe(self._go_on)

    @property
    def _full(self) -> bool:
        return len(self._calls) >= STREAM_AHEAD or bool(self._ahead)

    def _serve(self, payload: bytes) -> None:
        call = _StreamCall(payload, self._timeout_s, self)
        self._calls.append(call)
        self._inflight.serve(call, call, self._method.method)

    def _go_on(self) -> None:
        """Serves what had to wait, and lets the client send more; in the thread that receives."""
        self._going_on = False
        while self._ahead and len(self._calls) < STREAM_AHEAD:
            self._serve(self._ahead.popleft())
        self._connection.make_room(self._stream)


class _StreamCall(Call):
    """A request in a stream, and its answer once there is one: an error is the sentence that says why."""

    __slots__ = ("_bidi_call", "answer")

    def __init__(self, payload: bytes, timeout_s: float | None, bidi_call: _BidiCall) -> None:
        super().__init__(payload, timeout_s)
        self._bidi_call = bidi_call
        self.answer: bytes | str | None = None

    def respond(self, payload: bytes) -> None:
        self.answer = payload
        self._bidi_call.send()

    def fail(self, error: Exception) -> None:
        self.answer = status_of(error)[1]
        self._bidi_call.send()
