"""The header blocks of a connection (RFC 9113, section 4.3): each begins a request, or ends one with trailers."""

from typing import Final

from ..errors import Overloaded
from . import headers
from .deframer import RETRY_S
from .events import CallStarted, Event, HalfClosed
from .frames import (
    END_HEADERS,
    END_STREAM,
    LAST_STREAM_ID,
    NUMBER,
    PADDED,
    PRIORITY_FLAG,
    STREAM_ID_MASK,
    ErrorCode,
    ProtocolError,
    StreamError,
    unpadded,
)
from .headers import HeaderListTooLarge, HeaderReader, NotGrpc
from .receiver import Receiver, check_content
from .sender import Sender
from .stream import Stream

MAX_STREAMS: Final = 1024
"""SETTINGS_MAX_CONCURRENT_STREAMS; more are refused so that the client sends them again."""
MAX_BLOCK_BYTES: Final = 65_536
MAX_BLOCK_PARTS: Final = 64
"""Of one header block, compressed, and the frames it may come in."""
MAX_PENDING_BYTES: Final = 2**26
"""Of answers that the client's windows hold back, beyond which it gets no new ones."""
RESOURCE_EXHAUSTED: Final = 8
"""gRPC's status code."""
NEVER: Final = -1
"""Of a pushback: the client is not to repeat the call."""


class HeaderBlocks:
    """Puts header blocks together, and begins the requests that they mean."""

    def __init__(self, streams: dict[int, Stream], sender: Sender, receiver: Receiver, events: list[Event]) -> None:
        """``streams`` and ``events`` are the connection's."""
        self.last_stream_id = 0
        """The highest stream that was begun."""
        self.admitted = LAST_STREAM_ID
        """Streams beyond are refused: GOAWAY said so."""
        self.unfinished: tuple[int, int, list[bytes]] | None = None
        """A block without END_HEADERS: its stream, its flags and its parts."""
        self.reader = HeaderReader()
        self._streams = streams
        self._sender = sender
        self._receiver = receiver
        self._events = events

    def on_headers(self, flags: int, stream_id: int, data: bytes, start: int, stop: int) -> None:
        """Takes a HEADERS frame; raises ProtocolError or StreamError."""
        if flags & PADDED:
            start, stop = unpadded(data, start, stop)
        depends_on_itself = False
        if flags & PRIORITY_FLAG:
            if stop - start < 5:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "HEADERS is too short for its priority")
            depends_on_itself = NUMBER.unpack_from(data, start)[0] & STREAM_ID_MASK == stream_id
            start += 5
        if stream_id % 2 == 0:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"a client's request cannot be stream {stream_id}")
        if flags & END_HEADERS:
            self._on_block(stream_id, flags, data[start:stop])
        else:
            self.unfinished = stream_id, flags, [data[start:stop]]
        if depends_on_itself:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, "a stream cannot depend on itself")

    def on_continuation(self, flags: int, stream_id: int, data: bytes, start: int, stop: int) -> None:
        """Takes a CONTINUATION frame; raises ProtocolError or StreamError."""
        if self.unfinished is None:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        _, begun_with, parts = self.unfinished
        parts.append(data[start:stop])
        if len(parts) > MAX_BLOCK_PARTS or sum(map(len, parts)) > MAX_BLOCK_BYTES:
            raise ProtocolError(
                ErrorCode.ENHANCE_YOUR_CALM,
                f"a header block of over {MAX_BLOCK_BYTES} bytes or {MAX_BLOCK_PARTS} parts",
            )
        if flags & END_HEADERS:
            self.unfinished = None
            self._on_block(stream_id, begun_with, b"".join(parts))

    def refuse(self, stream_id: int, flags: int, error: HeaderListTooLarge | NotGrpc) -> None:
        """Answers a request whose fields are not to be had."""
        stream = self._streams[stream_id] = Stream(stream_id, _NO_HEAD)
        stream.half_closed = bool(flags & END_STREAM)
        if isinstance(error, NotGrpc):
            self._sender.end(stream, headers.refusal(error.status, str(error)))
        else:
            self._sender.send_trailers(stream, RESOURCE_EXHAUSTED, str(error), NEVER)

    def _on_block(self, stream_id: int, flags: int, block: bytes) -> None:
        """A whole header block: a request's, or its trailers."""
        if stream_id <= self.last_stream_id:
            self._on_trailers(stream_id, flags, block)
            return
        if stream_id > self.admitted or len(self._streams) >= MAX_STREAMS:
            self.last_stream_id = stream_id
            self.reader.skip(block)
            raise StreamError(ErrorCode.REFUSED_STREAM, "no more streams")
        self.last_stream_id = stream_id
        try:
            head = self.reader.read(block)
        except (HeaderListTooLarge, NotGrpc) as error:
            self.refuse(stream_id, flags, error)
            return
        stream = self._streams[stream_id] = Stream(stream_id, head)
        stream.window = self._receiver.stream_window
        stream.half_closed = bool(flags & END_STREAM)
        if stream.half_closed and head.content_length:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, "content-length is not the length of the data")
        if self._sender.pending_bytes > MAX_PENDING_BYTES:
            waiting = f"{self._sender.pending_bytes} bytes of answers wait for this client to take them."
            self._receiver.reject(stream, Overloaded(f"{waiting} Read these first.", retry_after_s=RETRY_S))
            return
        self._events.append(CallStarted(stream))
        if stream.half_closed:
            stream.announced = True
            self._events.append(HalfClosed(stream))

    def _on_trailers(self, stream_id: int, flags: int, block: bytes) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            self.reader.skip(block)
            ignored = self._sender.ignored
            if stream_id not in ignored:
                raise ProtocolError(ErrorCode.STREAM_CLOSED, "HEADERS on a stream that is closed")
            if flags & END_STREAM:
                del ignored[stream_id]
            return
        try:
            self.reader.read_trailers(block)
        except HeaderListTooLarge as error:
            raise StreamError(ErrorCode.ENHANCE_YOUR_CALM, str(error)) from error
        if stream.half_closed:
            raise StreamError(ErrorCode.STREAM_CLOSED, "HEADERS after the end of the stream")
        if not flags & END_STREAM:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, "trailers must end the stream")
        check_content(stream, ended=True)
        self._receiver.take_data(stream, memoryview(b""), ends=True)


_NO_HEAD: Final = HeaderReader().read(
    headers.encode((":method", "POST"), (":scheme", "http"), (":path", "/"), ("content-type", "application/grpc"))
)
"""The head of a request whose own was not read."""
