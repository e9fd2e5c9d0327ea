"""What is sent on a connection's streams, as far as its client's windows allow it (RFC 9113, section 5.2)."""

import struct
from collections import deque
from collections.abc import Callable
from typing import Final

from . import frames, headers
from .deframer import PREFIX
from .events import Event, ResponseDrained
from .frames import (
    DATA,
    DEFAULT_FRAME_SIZE,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    LARGEST_WINDOW,
    NUMBER,
    ErrorCode,
    ProtocolError,
    StreamError,
)
from .stream import Stream

STREAM_PENDING_BYTES: Final = 2**16
"""Of a stream's answers that the client's windows hold back, beyond which its messages are not read."""
MAX_IGNORED: Final = 1024
"""Streams that ended here first, whose frames may still be on their way."""
MAX_WINDOW_CHANGES: Final = 1000
"""SETTINGS that open the windows of streams with answers that wait: each looks at all of these."""

_RESPONSE_START: Final = frames.frame_start(HEADERS, END_HEADERS, len(headers.RESPONSE))
_DATA_START: Final = struct.Struct(">HBBBLBL").pack
"""A DATA frame's header, and the prefix of the message in it."""
_OK_START: Final = frames.frame_start(HEADERS, END_HEADERS | END_STREAM, len(headers.OK))


class Sender:
    """Sends the answers of one connection."""

    def __init__(
        self,
        streams: dict[int, Stream],
        output: list[bytes | memoryview],
        events: list[Event],
        forget: Callable[[Stream], None],
    ) -> None:
        """``streams``, ``output`` and ``events`` are the connection's; ``forget`` is told of streams that end."""
        self.window = self.initial_window = DEFAULT_WINDOW
        """Of the connection, and of its streams at first."""
        self.max_frame_size = DEFAULT_FRAME_SIZE
        self.pending_bytes = 0
        """Of messages that the client's windows hold back."""
        self.ignored: dict[int, None] = {}
        """Streams that ended here first."""
        self.waiting_for_connection: dict[int, Stream] = {}
        self.waiting_for_stream: dict[int, Stream] = {}
        self._window_changes = 0
        self._streams = streams
        self._output = output
        self._events = events
        self._forget = forget

    def send_unary(self, stream: Stream, payload: bytes) -> None:
        """Sends the whole of an answer with one message."""
        size = len(payload) + 5
        if (
            not stream.half_closed
            or size > self.max_frame_size
            or size > self.window
            or size > self.initial_window + stream.extra
        ):
            self.send_message(stream, payload)
            self.send_trailers(stream)
        elif self._streams.pop(stream.id, None) is not None:
            stream.closed = True
            self.window -= size
            number = NUMBER.pack(stream.id)
            self._output += (
                *(_RESPONSE_START, number, headers.RESPONSE),
                *(_DATA_START(size >> 8, size & 0xFF, DATA, 0, stream.id, 0, size - 5), payload),
                *(_OK_START, number, headers.OK),
            )
            if stream.deframer is not None:
                stream.deframer.discard()

    def send_headers(self, stream: Stream) -> None:
        """Sends the response's header fields, once."""
        if not stream.headers_sent and not stream.closed:
            stream.headers_sent = True
            self._output.append(frames.frame(HEADERS, END_HEADERS, stream.id, headers.RESPONSE))

    def send_message(self, stream: Stream, payload: bytes) -> None:
        """Sends one message, as soon as the client's windows allow it."""
        if stream.closed:
            return
        self.send_headers(stream)
        if stream.pending is None:
            stream.pending = deque()
        waits = bool(stream.pending)
        stream.pending.append(memoryview(PREFIX.pack(0, len(payload)) + payload))
        stream.pending_bytes += PREFIX.size + len(payload)
        self.pending_bytes += PREFIX.size + len(payload)
        if not waits:
            self._send_pending(stream)

    def send_trailers(self, stream: Stream, code: int = 0, message: str = "", pushback_ms: int | None = None) -> None:
        """Ends the answer with a status, behind its messages; without any: in one header block (Trailers-Only)."""
        if stream.closed or stream.trailers is not None:
            return
        if code:
            block = headers.error_trailers(code, message, pushback_ms)
            if not stream.headers_sent:
                block = headers.RESPONSE + block
        else:
            self.send_headers(stream)
            block = headers.OK
        self.end(stream, block)

    def end(self, stream: Stream, block: bytes) -> None:
        """Ends the answer with this header block, behind its messages."""
        stream.trailers = frames.header_frames(stream.id, block, END_STREAM, self.max_frame_size)
        if not stream.pending:
            self._finish(stream)

    def reset(self, stream: Stream, code: ErrorCode = ErrorCode.CANCEL) -> None:
        """Ends a stream without an answer."""
        if not stream.closed:
            self._output.append(frames.rst_stream(stream.id, code))
            if not stream.half_closed:
                self.ignore(stream.id)
            self.close(stream)

    def ignore(self, stream_id: int) -> None:
        """Passes over what is still on its way on a stream that ended here."""
        self.ignored[stream_id] = None
        if len(self.ignored) > MAX_IGNORED:
            del self.ignored[next(iter(self.ignored))]

    def close(self, stream: Stream) -> None:
        """Lets go of a stream."""
        stream.closed = True
        self._streams.pop(stream.id, None)
        self.waiting_for_connection.pop(stream.id, None)
        self.waiting_for_stream.pop(stream.id, None)
        self.pending_bytes -= stream.pending_bytes
        stream.pending, stream.pending_bytes = None, 0
        self._forget(stream)

    def close_all(self) -> None:
        """Lets go of what the streams hold, and leaves them to be seen."""
        self.waiting_for_connection.clear()
        self.waiting_for_stream.clear()
        self.pending_bytes = 0
        for stream in self._streams.values():
            stream.closed = True
            stream.pending, stream.pending_bytes = None, 0
            self._forget(stream)

    def open_window(self, increment: int) -> None:
        """The client takes more on the connection; raises ProtocolError."""
        self.window += increment
        if self.window > LARGEST_WINDOW:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window overflows")
        waiting = self.waiting_for_connection
        while waiting and self.window > 0:
            self._send_more(waiting.pop(next(iter(waiting))))

    def open_stream_window(self, stream: Stream, increment: int) -> None:
        """The client takes more on a stream; raises StreamError."""
        stream.extra += increment
        if self.initial_window + stream.extra > LARGEST_WINDOW:
            raise StreamError(ErrorCode.FLOW_CONTROL_ERROR, "the stream's window overflows")
        if stream.id in self.waiting_for_stream:
            self._send_more(self.waiting_for_stream.pop(stream.id))

    def set_initial_window(self, size: int) -> None:
        """The client takes so much on each stream at first; raises ProtocolError."""
        if size > LARGEST_WINDOW:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, f"SETTINGS_INITIAL_WINDOW_SIZE of {size}")
        grows, self.initial_window = size > self.initial_window, size
        if not grows:
            return
        largest = max((stream.extra for stream in self._streams.values()), default=0)
        if size + largest > LARGEST_WINDOW:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window overflows")
        self._window_changes += 1
        if self._window_changes > MAX_WINDOW_CHANGES:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "too many changes of the initial window")
        for stream_id in list(self.waiting_for_stream):
            self._send_more(self.waiting_for_stream.pop(stream_id))

    def _send_more(self, stream: Stream) -> None:
        """Sends what a window that was opened allows."""
        self._send_pending(stream)
        if not stream.pending and not stream.closed:
            self._events.append(ResponseDrained(stream))

    def _send_pending(self, stream: Stream) -> None:
        """Sends what the windows allow of a stream's messages, and its trailers behind them."""
        pending = stream.pending
        while pending:
            data = pending[0]
            size = min(len(data), self.max_frame_size, self.window, self.initial_window + stream.extra)
            if size <= 0:
                if self.window <= 0:
                    self.waiting_for_connection[stream.id] = stream
                else:
                    self.waiting_for_stream[stream.id] = stream
                return
            self.window -= size
            stream.extra -= size
            stream.pending_bytes -= size
            self.pending_bytes -= size
            self._output.append(frames.frame_start(DATA, 0, size) + NUMBER.pack(stream.id))
            self._output.append(data[:size])
            if size == len(data):
                pending.popleft()
            else:
                pending[0] = data[size:]
        if stream.trailers is not None:
            self._finish(stream)

    def _finish(self, stream: Stream) -> None:
        """Sends the trailers: the stream is closed, or half-closed (local), and then the client need not go on."""
        assert stream.trailers is not None  # noqa: S101 - its callers have set it
        self._output.append(stream.trailers)
        if not stream.half_closed:
            # Section 8.1: the answer is complete before the request is.
            self._output.append(frames.rst_stream(stream.id, ErrorCode.NO_ERROR))
            self.ignore(stream.id)
        self.close(stream)
