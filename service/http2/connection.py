"""One HTTP/2 connection as a gRPC server has it: bytes in, events out; messages in, bytes out. RFC 9113 throughout.

A request in one HEADERS and one DATA frame, as most are, takes a short way through `receive_data`; everything else
takes the long way through the same states. No method blocks, and none may be called by two threads at a time.
"""

import struct
from collections import deque
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

from ..errors import InvalidRequest, Overloaded
from . import frames, headers
from .deframer import PREFIX, RETRY_S, ConnectionBudget, MessageDeframer, ReceiveBudget
from .frames import (
    ACK,
    CONTINUATION,
    DATA,
    DEFAULT_FRAME_SIZE,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    GOAWAY,
    HEADERS,
    LAST_STREAM_ID,
    NUMBER,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PRIORITY_FLAG,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    STREAM_ID_MASK,
    WINDOW_UPDATE,
    ErrorCode,
    ProtocolError,
    StreamError,
)
from .headers import HeaderListTooLarge, HeaderReader, NotGrpc, RequestHead

MAX_STREAMS = 1024
"""SETTINGS_MAX_CONCURRENT_STREAMS; more are refused so that the client sends them again."""
STREAM_WINDOW, LARGE_STREAM_WINDOW, CONNECTION_WINDOW = 2**20, 2**24, 2**26
"""Octets that may be on their way on a stream and on a connection: what is held is the budget's to bound. A message
longer than a stream's window is allowed whole once its length is known, which costs a round trip; so a connection on
which such a one has come for a unary method gets the large window for its streams."""
MAX_BLOCK_BYTES, MAX_BLOCK_PARTS = 65_536, 64
"""Of one header block, compressed, and the frames it may come in."""
MAX_TURN_FRAMES = 512
"""Frames, and messages of frames, that are read before it is other connections' turn."""
WORK_BYTES = 64
"""Of a header block, that count as a frame more."""
RESET_WORK = 3
"""What a stream that is refused or reset here counts more."""
MAX_PENDING_BYTES = 2**26
"""Of answers that the client's windows hold back, beyond which it gets no new ones."""
STREAM_PENDING_BYTES = 2**16
"""The same on one stream, beyond which its messages are not read."""
MAX_IGNORED = 1024
"""Streams that ended here first, whose frames may still be on their way."""
RESOURCE_EXHAUSTED = 8
"""gRPC's status code."""
NEVER = -1
"""Of a pushback: the client is not to repeat the call."""
MAX_WINDOW_CHANGES = 1000
"""SETTINGS that open the windows of streams with answers that wait: each looks at all of these."""

_RESPONSE_START = frames.frame_start(HEADERS, END_HEADERS, len(headers.RESPONSE))
_event = tuple.__new__
"""A named tuple's own constructor costs 0.2 µs more, twice a call."""
_DATA_START = struct.Struct(">HBBBLBL").pack
"""A DATA frame's header, and the prefix of the message in it."""
_OK_START = frames.frame_start(HEADERS, END_HEADERS | END_STREAM, len(headers.OK))


class Stream:
    """A request and its answer, from HEADERS until both have ended or one side has reset it."""

    # Class attributes are what most streams never change: making one costs 0.15 µs.
    half_closed = False
    """True once the client has sent END_STREAM: half-closed (remote)."""
    first: bytes | None = None
    """A message that came whole in the first DATA frame, while the stream's end has not come."""
    closed = False
    deframer: MessageDeframer | None = None
    whole_only = False
    """Set to have messages only once the client has sent them all: a unary method has no use for them before."""
    paused = False
    """Set by `Connection.pause`."""
    announced = False  # HalfClosed has been an event
    headers_sent = False
    received = 0
    """Octets of DATA frames."""
    window = STREAM_WINDOW
    """What the client may send, counted from the beginning."""
    extra = 0
    """What the client lets us send beyond its initial window; what was sent counts against it."""
    pending: deque[memoryview] | None = None
    pending_bytes = 0
    """Of messages that the client's windows hold back."""
    trailers: bytes | None = None
    content_received = 0
    """Octets of data without padding, counted where the request has a content-length."""
    call: Any = None
    """For the server."""
    deadline: float | None = None
    """For the server."""
    progress = 0
    """For the server."""

    def __init__(self, stream_id: int, head: RequestHead) -> None:
        self.id = stream_id
        self.head = head


class CallStarted(NamedTuple):
    """A request's header fields have come."""

    stream: Stream


class MessageReceived(NamedTuple):
    """A message is complete; ``half_closed``: it was the last."""

    stream: Stream
    payload: bytes
    half_closed: bool


class HalfClosed(NamedTuple):
    """The client has sent all its messages."""

    stream: Stream


class RequestRejected(NamedTuple):
    """A request cannot be understood: the server answers with this error."""

    stream: Stream
    error: Exception


class Cancelled(NamedTuple):
    """The client, or a stream error, has ended the stream: the response is not wanted any more."""

    stream: Stream
    code: int


class ResponseDrained(NamedTuple):
    """The client has opened its windows for all that waited on this stream."""

    stream: Stream


class ConnectionEnded(NamedTuple):
    """A connection error: GOAWAY is to be sent, and the connection to be closed."""

    code: ErrorCode
    reason: str


Event = CallStarted | MessageReceived | HalfClosed | RequestRejected | Cancelled | ResponseDrained | ConnectionEnded


class Connection:
    """The server's side of one connection."""

    def __init__(self, budget: ReceiveBudget) -> None:
        self._budget = ConnectionBudget(budget)
        self.streams: dict[int, Stream] = {}
        """Those that are open or half-closed."""
        self.preface_received = False
        self.last_stream_id = 0
        """The highest stream that was begun."""
        self.closed = False
        self.pending_bytes = 0
        """Of messages that the client's windows hold back."""
        self._settings_received = False
        self._reader = HeaderReader()
        self._buffer = b""
        self._has_frames = False  # what is buffered may have a whole frame
        self._backlog: dict[int, Stream] = {}  # streams with messages to be read in the next turn
        self._block: tuple[int, int, list[bytes]] | None = None  # a header block without END_HEADERS
        self._events: list[Event] = []
        self._ignored: dict[int, None] = {}
        self._admitted = LAST_STREAM_ID  # streams beyond are refused: GOAWAY said so
        self._goaway_sent = False
        self._window_changes = 0
        self._work = 0  # of this turn, beside frames, in frames
        # Receiving: octets of DATA so far, and how many may be.
        self._received = 0
        self._granted = frames.DEFAULT_WINDOW
        self._stream_window = STREAM_WINDOW
        # Sending.
        self._output: list[bytes | memoryview] = []
        self._send_window = self._initial_window = frames.DEFAULT_WINDOW
        self._max_frame_size = DEFAULT_FRAME_SIZE
        self._waiting_for_connection: dict[int, Stream] = {}
        self._waiting_for_stream: dict[int, Stream] = {}

    # Receiving.

    @property
    def has_unread(self) -> bool:
        """True while `receive_data` has more to do with what it has: it stops after a turn's frames."""
        return self._has_frames or bool(self._backlog)

    def receive_data(self, data: bytes) -> Iterator[Event]:
        """Takes bytes of the client's and yields what they mean. To be iterated to the end."""
        try:
            yield from self._receive(data)
        except ProtocolError as error:
            self._fail(error.code, str(error))
            yield ConnectionEnded(error.code, str(error))

    def _receive(self, data: bytes) -> Iterator[Event]:  # noqa: C901, PLR0912, PLR0914, PLR0915 - a call costs 0.1 µs
        if self._buffer:
            data = self._buffer + data
        self._buffer, self._has_frames = data, False
        left, self._work = MAX_TURN_FRAMES, 0
        if self._backlog:
            yield from self._read_backlog()
            left, self._work = left - self._work, 0
            if self._backlog:
                self._has_frames = True
                return
        at, end = 0 if self.preface_received else self._receive_preface(data), len(data)
        if not self.preface_received:
            return
        streams, known, unpack, prefix = self.streams, self._reader.known, FRAME_HEADER.unpack_from, PREFIX.unpack_from
        while end - at >= 9:
            high, low, kind, flags, stream_id = unpack(data, at)
            start = at + 9
            stop = start + (high << 8 | low)
            if stop - start > DEFAULT_FRAME_SIZE:
                raise ProtocolError(
                    ErrorCode.FRAME_SIZE_ERROR, f"a frame of {stop - start} bytes: {DEFAULT_FRAME_SIZE} may be"
                )
            if stop > end:
                break
            if left <= 0:
                self._has_frames = True
                break
            left -= 1
            if kind in (HEADERS, CONTINUATION):
                left -= (stop - start) // WORK_BYTES
            at = stop
            if kind == HEADERS and flags == END_HEADERS and self._block is None:
                if (
                    self.last_stream_id < stream_id <= self._admitted
                    and stream_id & 1
                    and len(streams) < MAX_STREAMS
                    and self.pending_bytes <= MAX_PENDING_BYTES
                    and self._settings_received
                ):
                    self.last_stream_id = stream_id
                    block = data[start:stop]
                    head = known.get(block)
                    if head is None:
                        try:
                            head = self._reader.read(block)
                        except (StreamError, HeaderListTooLarge, NotGrpc) as error:
                            self._refuse(stream_id, flags, error)
                            left -= RESET_WORK
                            yield from self._take_events()
                            continue
                    stream = streams[stream_id] = Stream(stream_id, head)
                    if self._stream_window > STREAM_WINDOW:
                        stream.window = self._stream_window
                    yield _event(CallStarted, (stream,))
                    continue
            elif kind == DATA and flags <= END_STREAM and self._block is None:
                found = streams.get(stream_id)
                if found is not None and found.deframer is None and not found.half_closed:
                    if found.first is not None:
                        if flags and start == stop:  # h2load and Node end a request by a frame of its own
                            found.half_closed = found.announced = True
                            yield _event(MessageReceived, (found, self._take_first(found), True))
                            continue
                    elif stop - start >= 5 and found.head.content_length in (None, stop - start):
                        flag, length = prefix(data, start)
                        if not flag and length == stop - start - 5 and (flags or found.whole_only):
                            self._received += stop - start
                            if flags:
                                found.half_closed = found.announced = True
                                yield _event(MessageReceived, (found, data[start + 5 : stop], True))
                                continue
                            if self._budget.has_room(length):
                                found.received = found.content_received = stop - start
                                found.first = data[start + 5 : stop]
                                self._budget.take(length)
                                continue
                            self._received -= stop - start
            self._receive_frame(kind, flags, stream_id & STREAM_ID_MASK, data, start, stop)
            if self._work:
                left, self._work = left - self._work, 0
            if self._events:
                left -= len(self._events)
                yield from self._take_events()
            if self._backlog:  # a stream has more messages than a turn's
                self._has_frames = True
                break
        self._buffer = data[at:]
        if self._granted - self._received < CONNECTION_WINDOW // 2:
            if self._received > self._granted:
                raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window allows")
            self._output.append(frames.window_update(0, self._received + CONNECTION_WINDOW - self._granted))
            self._granted = self._received + CONNECTION_WINDOW

    def _receive_preface(self, data: bytes) -> int:
        if not data.startswith(PREFACE[: len(data)]):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "this is not HTTP/2: gRPC needs a client that begins with it")
        if len(data) < len(PREFACE):
            return 0
        self.preface_received = True
        self._output.append(
            frames.settings(
                {
                    frames.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
                    frames.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                    frames.MAX_HEADER_LIST_SIZE: headers.MAX_LIST_BYTES,
                }
            )
        )
        self._output.append(frames.window_update(0, CONNECTION_WINDOW - self._granted))
        self._granted = CONNECTION_WINDOW
        return len(PREFACE)

    def _receive_frame(self, kind: int, flags: int, stream_id: int, data: bytes, start: int, stop: int) -> None:
        if not self._settings_received and (kind != SETTINGS or flags & ACK):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "the first frame must be SETTINGS")
        if self._block is not None and (kind != CONTINUATION or stream_id != self._block[0]):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a header block must not be interrupted")
        receive = self._RECEIVERS.get(kind)
        if receive is None:
            return  # frames of unknown types are passed over (section 4.1)
        try:
            receive(self, flags, stream_id, data, start, stop)
        except StreamError as error:
            self._reset(stream_id, error.code)

    def _on_data(self, flags: int, stream_id: int, data: bytes, start: int, stop: int) -> None:
        self._received += stop - start
        if stream_id == 0 or stream_id > self.last_stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "DATA on a stream that is idle")
        stream = self.streams.get(stream_id)
        if stream is not None and not stream.half_closed:
            stream.received += stop - start
            if stream.received > stream.window:
                raise StreamError(ErrorCode.FLOW_CONTROL_ERROR, "more data than the stream's window allows")
        if flags & PADDED:
            start, stop = _unpadded(data, start, stop)
        if stream is not None and not stream.half_closed:
            self._take_data(stream, memoryview(data)[start:stop], ends=bool(flags & END_STREAM))
        elif stream_id not in self._ignored:
            raise StreamError(ErrorCode.STREAM_CLOSED, "DATA after the end of the stream")
        elif flags & END_STREAM:
            del self._ignored[stream_id]

    def _take_first(self, stream: Stream) -> bytes:
        """Returns the message that was kept."""
        first, stream.first = stream.first, None
        assert first is not None  # noqa: S101 - its callers have looked
        self._budget.give_back(len(first))
        return first

    def _take_data(self, stream: Stream, data: memoryview, *, ends: bool) -> None:
        """Takes a piece of a request's data."""
        if stream.deframer is None:
            stream.deframer = MessageDeframer(self._budget, stream.head.encoding)
        try:
            if stream.first is not None:
                first = self._take_first(stream)
                stream.deframer.receive_data(PREFIX.pack(0, len(first)) + first)
            stream.deframer.receive_data(data)
        except Exception as error:
            self._reject(stream, error)
            return
        if stream.head.content_length is not None:
            stream.content_received += len(data)
            _check_content(stream, ended=ends)
        stream.half_closed = ends
        self._read_messages(stream)
        self._grant(stream)

    def _on_headers(self, flags: int, stream_id: int, data: bytes, start: int, stop: int) -> None:
        if flags & PADDED:
            start, stop = _unpadded(data, start, stop)
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
            self._block = stream_id, flags, [data[start:stop]]
        if depends_on_itself:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, "a stream cannot depend on itself")

    def _on_continuation(self, flags: int, stream_id: int, data: bytes, start: int, stop: int) -> None:
        if self._block is None:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        _, begun_with, parts = self._block
        parts.append(data[start:stop])
        if len(parts) > MAX_BLOCK_PARTS or sum(map(len, parts)) > MAX_BLOCK_BYTES:
            raise ProtocolError(
                ErrorCode.ENHANCE_YOUR_CALM,
                f"a header block of over {MAX_BLOCK_BYTES} bytes or {MAX_BLOCK_PARTS} parts",
            )
        if flags & END_HEADERS:
            self._block = None
            self._on_block(stream_id, begun_with, b"".join(parts))

    def _on_block(self, stream_id: int, flags: int, block: bytes) -> None:
        """A whole header block: a request's, or its trailers."""
        if stream_id <= self.last_stream_id:
            self._on_trailers(stream_id, flags, block)
            return
        if stream_id > self._admitted or len(self.streams) >= MAX_STREAMS:
            self.last_stream_id = stream_id
            self._reader.skip(block)
            raise StreamError(ErrorCode.REFUSED_STREAM, "no more streams")
        self.last_stream_id = stream_id
        try:
            head = self._reader.read(block)
        except (StreamError, HeaderListTooLarge, NotGrpc) as error:
            self._refuse(stream_id, flags, error)
            return
        stream = self.streams[stream_id] = Stream(stream_id, head)
        stream.window = self._stream_window
        stream.half_closed = bool(flags & END_STREAM)
        if stream.half_closed and head.content_length:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, "content-length is not the length of the data")
        if self.pending_bytes > MAX_PENDING_BYTES:
            waiting = f"{self.pending_bytes} bytes of answers wait for this client to take them."
            self._reject(stream, Overloaded(f"{waiting} Read these first.", retry_after_s=RETRY_S))
            return
        self._events.append(CallStarted(stream))
        if stream.half_closed:
            stream.announced = True
            self._events.append(HalfClosed(stream))

    def _refuse(self, stream_id: int, flags: int, error: StreamError | HeaderListTooLarge | NotGrpc) -> None:
        """Answers a request whose fields are not to be had."""
        if isinstance(error, StreamError):
            self._reset(stream_id, error.code)
            return
        stream = self.streams[stream_id] = Stream(stream_id, _NO_HEAD)
        stream.half_closed = bool(flags & END_STREAM)
        if isinstance(error, NotGrpc):
            block = headers.refusal(error.status, str(error))
            stream.trailers = frames.header_frames(stream_id, block, END_STREAM, self._max_frame_size)
            self._finish(stream)
        else:
            self.send_trailers(stream, RESOURCE_EXHAUSTED, str(error), NEVER)

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _on_trailers(self, stream_id: int, flags: int, block: bytes) -> None:
        stream = self.streams.get(stream_id)
        if stream is None:
            self._reader.skip(block)
            if stream_id not in self._ignored:
                raise ProtocolError(ErrorCode.STREAM_CLOSED, "HEADERS on a stream that is closed")
            if flags & END_STREAM:
                del self._ignored[stream_id]
            return
        try:
            self._reader.read_trailers(block)
        except HeaderListTooLarge as error:
            raise StreamError(ErrorCode.ENHANCE_YOUR_CALM, str(error)) from error
        if stream.half_closed:
            raise StreamError(ErrorCode.STREAM_CLOSED, "HEADERS after the end of the stream")
        if not flags & END_STREAM:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, "trailers must end the stream")
        _check_content(stream, ended=True)
        self._take_data(stream, memoryview(b""), ends=True)

    def _on_priority(self, _flags: int, stream_id: int, data: bytes, start: int, stop: int) -> None:
        if stream_id == 0:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if stop - start != 5:
            raise StreamError(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY has 5 bytes")
        if NUMBER.unpack_from(data, start)[0] & STREAM_ID_MASK == stream_id:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, "a stream cannot depend on itself")

    def _on_rst_stream(self, _flags: int, stream_id: int, data: bytes, start: int, stop: int) -> None:
        (code,) = _exactly(NUMBER, data, start, stop)
        if stream_id == 0 or stream_id > self.last_stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "RST_STREAM on a stream that is idle")
        self._ignored.pop(stream_id, None)
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._close(stream)
            self._events.append(Cancelled(stream, code))

    def _on_settings(self, flags: int, stream_id: int, data: bytes, start: int, stop: int) -> None:
        if stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if (stop - start) % frames.SETTING.size or (flags & ACK and stop > start):
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a wrong length")
        self._settings_received = True
        if flags & ACK:
            return
        for name, value in frames.SETTING.iter_unpack(data[start:stop]):
            if name == frames.ENABLE_PUSH and value > 1:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"SETTINGS_ENABLE_PUSH of {value}")
            if name == frames.MAX_FRAME_SIZE:
                if not DEFAULT_FRAME_SIZE <= value <= frames.LARGEST_FRAME_SIZE:
                    raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"SETTINGS_MAX_FRAME_SIZE of {value}")
                self._max_frame_size = value
            elif name == frames.INITIAL_WINDOW_SIZE:
                self._set_initial_window(value)
        self._output.append(frames.frame(SETTINGS, ACK, 0))

    def _on_ping(self, flags: int, stream_id: int, data: bytes, start: int, stop: int) -> None:
        if stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if stop - start != 8:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "PING has 8 bytes")
        if not flags & ACK:
            self._output.append(frames.frame(PING, ACK, 0, data[start:stop]))

    def _on_goaway(self, _flags: int, stream_id: int, _data: bytes, start: int, stop: int) -> None:
        if stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if stop - start < 8:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY has at least 8 bytes")

    def _on_push_promise(self, _flags: int, _stream_id: int, _data: bytes, _start: int, _stop: int) -> None:
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a client cannot push")

    def _on_window_update(self, _flags: int, stream_id: int, data: bytes, start: int, stop: int) -> None:
        (increment,) = _exactly(NUMBER, data, start, stop)
        increment &= STREAM_ID_MASK
        if stream_id == 0:
            if increment == 0:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
            self._send_window += increment
            if self._send_window > frames.LARGEST_WINDOW:
                raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window overflows")
            waiting = self._waiting_for_connection
            while waiting and self._send_window > 0:
                self._send_more(waiting.pop(next(iter(waiting))))
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            if stream_id > self.last_stream_id:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE on a stream that is idle")
            return
        if increment == 0:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
        stream.extra += increment
        if self._initial_window + stream.extra > frames.LARGEST_WINDOW:
            raise StreamError(ErrorCode.FLOW_CONTROL_ERROR, "the stream's window overflows")
        if stream_id in self._waiting_for_stream:
            self._send_more(self._waiting_for_stream.pop(stream_id))

    def _set_initial_window(self, size: int) -> None:
        if size > frames.LARGEST_WINDOW:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, f"SETTINGS_INITIAL_WINDOW_SIZE of {size}")
        grows, self._initial_window = size > self._initial_window, size
        if not grows:
            return
        largest = max((stream.extra for stream in self.streams.values()), default=0)
        if size + largest > frames.LARGEST_WINDOW:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window overflows")
        self._window_changes += 1
        if self._window_changes > MAX_WINDOW_CHANGES:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "too many changes of the initial window")
        for stream_id in list(self._waiting_for_stream):
            self._send_more(self._waiting_for_stream.pop(stream_id))

    # Messages of what has been received.

    def pause(self, stream: Stream) -> None:
        """Has no more messages of a stream, and its client's window closed, until `resume`."""
        stream.paused = True

    def resume(self, stream: Stream) -> None:
        """Has messages of the stream again, those that came meanwhile in the next turn: see `has_unread`."""
        if stream.paused and not stream.closed:
            stream.paused = False
            self._grant(stream)
            if not stream.announced and (stream.half_closed or (stream.deframer and stream.deframer.has_message)):
                self._backlog[stream.id] = stream

    def _read_messages(self, stream: Stream) -> None:
        """Reads one message, and leaves the others to `_read_backlog`; or finds the end."""
        deframer = stream.deframer
        if stream.paused or (stream.whole_only and not stream.half_closed):
            return
        if deframer is not None:
            try:
                message = _next_message(deframer, half_closed=stream.half_closed)
            except Exception as error:
                self._reject(stream, error)
                return
            finally:
                self._work += deframer.take_work()
            more = deframer.has_message
            if message is not None:
                last = stream.half_closed and not more and not deframer.is_partial
                stream.announced = last
                self._events.append(MessageReceived(stream, message, last))
            if more or (message is not None and stream.half_closed and not stream.announced):
                self._backlog[stream.id] = stream
                return
        if stream.half_closed and not stream.announced:
            stream.announced = True
            self._events.append(HalfClosed(stream))

    def _read_backlog(self) -> Iterator[Event]:
        """Yields messages of the streams that have more than one, in turn, as many as are a turn's."""
        while self._backlog and self._work < MAX_TURN_FRAMES:
            stream = self._backlog.pop(next(iter(self._backlog)))
            self._work += 1
            if not stream.closed:
                self._read_messages(stream)
                yield from self._take_events()

    def _grant(self, stream: Stream) -> None:
        """Opens the stream's window again, once half of it is used: for all of a message that has begun."""
        if stream.paused or stream.half_closed or stream.closed:
            return
        missing = 0 if stream.deframer is None else stream.deframer.missing
        if missing > self._stream_window and stream.whole_only and self._stream_window < LARGE_STREAM_WINDOW:
            self._enlarge_windows()
        needed = stream.received + missing + STREAM_WINDOW // 2
        if needed > stream.window:
            self._output.append(frames.window_update(stream.id, needed + STREAM_WINDOW // 2 - stream.window))
            stream.window = needed + STREAM_WINDOW // 2

    def _enlarge_windows(self) -> None:
        """Announces the large window, which opens those of the streams that there are by the difference."""
        more = LARGE_STREAM_WINDOW - self._stream_window
        self._stream_window = LARGE_STREAM_WINDOW
        self._output.append(frames.settings({frames.INITIAL_WINDOW_SIZE: LARGE_STREAM_WINDOW}))
        for stream in self.streams.values():
            stream.window += more

    # Sending.

    def send_unary(self, stream: Stream, payload: bytes) -> None:
        """Sends the whole of an answer with one message."""
        size = len(payload) + PREFIX.size
        if (
            not stream.half_closed
            or size > self._max_frame_size
            or size > self._send_window
            or size > self._initial_window + stream.extra
        ):
            self.send_message(stream, payload)
            self.send_trailers(stream)
        elif self.streams.pop(stream.id, None) is not None:
            stream.closed = True
            self._send_window -= size
            number = NUMBER.pack(stream.id)
            self._output += (
                *(_RESPONSE_START, number, headers.RESPONSE),
                *(_DATA_START(size >> 8, size & 0xFF, DATA, 0, stream.id, 0, len(payload)), payload),
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
        stream.trailers = frames.header_frames(stream.id, block, END_STREAM, self._max_frame_size)
        if not stream.pending:
            self._finish(stream)

    def reset(self, stream: Stream, code: ErrorCode = ErrorCode.CANCEL) -> None:
        """Ends a stream without an answer."""
        if not stream.closed:
            self._output.append(frames.rst_stream(stream.id, code))
            self._ignore(stream)
            self._close(stream)

    def goaway(self, *, final: bool = False) -> None:
        """Asks the client to open no more streams here; those on their way are served, or once ``final`` refused."""
        if self.closed or not self.preface_received:
            return
        if final:
            self._admitted = self.last_stream_id
            self._output.append(frames.goaway(self.last_stream_id))
        elif not self._goaway_sent:
            self._output.append(frames.goaway(LAST_STREAM_ID))
        self._goaway_sent = True

    def data_to_send(self) -> bytes:
        """Returns what is to be written, and forgets it."""
        if not self._output:
            return b""
        data = b"".join(self._output)
        self._output.clear()
        return data

    def _reject(self, stream: Stream, error: Exception) -> None:
        """Reads no more of a request that the server is to answer with an error."""
        self._discard(stream)
        stream.paused = stream.announced = True
        self._backlog.pop(stream.id, None)
        self._events.append(RequestRejected(stream, error))

    def _reset(self, stream_id: int, code: ErrorCode) -> None:
        stream = self.streams.get(stream_id)
        self._work += RESET_WORK
        self._output.append(frames.rst_stream(stream_id, code))
        if stream is None:
            self._remember_ignored(stream_id)
            return
        self._ignore(stream)
        self._close(stream)
        self._events.append(Cancelled(stream, code))

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
            size = min(len(data), self._max_frame_size, self._send_window, self._initial_window + stream.extra)
            if size <= 0:
                if self._send_window <= 0:
                    self._waiting_for_connection[stream.id] = stream
                else:
                    self._waiting_for_stream[stream.id] = stream
                return
            self._send_window -= size
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
            self._ignore(stream)
        self._close(stream)

    def _ignore(self, stream: Stream) -> None:
        if not stream.half_closed:
            self._remember_ignored(stream.id)

    def _remember_ignored(self, stream_id: int) -> None:
        self._ignored[stream_id] = None
        if len(self._ignored) > MAX_IGNORED:
            del self._ignored[next(iter(self._ignored))]

    def _close(self, stream: Stream) -> None:
        stream.closed = True
        self.streams.pop(stream.id, None)
        self._waiting_for_connection.pop(stream.id, None)
        self._waiting_for_stream.pop(stream.id, None)
        self._backlog.pop(stream.id, None)
        self.pending_bytes -= stream.pending_bytes
        stream.pending, stream.pending_bytes = None, 0
        self._discard(stream)

    def _discard(self, stream: Stream) -> None:
        """Lets go of what of the request is held."""
        if stream.first is not None:
            self._take_first(stream)
        if stream.deframer is not None:
            stream.deframer.discard()

    _RECEIVERS: ClassVar = {
        DATA: _on_data,
        HEADERS: _on_headers,
        PRIORITY: _on_priority,
        RST_STREAM: _on_rst_stream,
        SETTINGS: _on_settings,
        PUSH_PROMISE: _on_push_promise,
        PING: _on_ping,
        GOAWAY: _on_goaway,
        WINDOW_UPDATE: _on_window_update,
        CONTINUATION: _on_continuation,
    }

    def _fail(self, code: ErrorCode, reason: str) -> None:
        """A connection error (section 5.4.1)."""
        self._output.append(frames.goaway(self.last_stream_id, code, reason))
        self.close()

    def close(self) -> None:
        """Lets go of what the streams hold; `streams` is left for the server to see whose calls have ended."""
        self.closed = True
        self._buffer, self._has_frames = b"", False
        self._backlog.clear()
        self._waiting_for_connection.clear()
        self._waiting_for_stream.clear()
        self.pending_bytes = 0
        for stream in self.streams.values():
            stream.closed = True
            stream.pending, stream.pending_bytes = None, 0
            self._discard(stream)


def _unpadded(data: bytes, start: int, stop: int) -> tuple[int, int]:
    """Returns where a padded frame's content is."""
    if start == stop or data[start] >= stop - start:
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "more padding than frame")
    return start + 1, stop - data[start]


def _next_message(deframer: MessageDeframer, *, half_closed: bool) -> bytes | None:
    """Returns a message if one is complete; raises what the deframer does, or InvalidRequest for half of one."""
    message = deframer.next_message()
    if message is None and half_closed and deframer.is_partial and not deframer.has_message:
        raise InvalidRequest("the request ends in the middle of a message")
    return message


def _check_content(stream: Stream, *, ended: bool) -> None:
    """Raises StreamError where the data are not as long as content-length says (section 8.1.1)."""
    stated, received = stream.head.content_length, stream.content_received
    if stated is not None and (received > stated or (ended and received != stated)):
        raise StreamError(ErrorCode.PROTOCOL_ERROR, "content-length is not the length of the data")


def _exactly(form: struct.Struct, data: bytes, start: int, stop: int) -> tuple[int, ...]:
    """Returns the numbers of a frame that has these and nothing else."""
    if stop - start != form.size:
        raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {stop - start} bytes, not {form.size}")
    return form.unpack_from(data, start)


_NO_HEAD = HeaderReader().read(
    headers.encode((":method", "POST"), (":scheme", "http"), (":path", "/"), ("content-type", "application/grpc"))
)
"""The head of a request whose own was not read."""
