"""One HTTP/2 connection as a gRPC server has it: bytes in, events out; messages in, bytes out. RFC 9113 throughout.

A request in one HEADERS and one DATA frame, as most are, takes a short way through `receive_data`; everything else
takes the long way through the same states. No method blocks, and none may be called by two threads at a time.
"""

from collections.abc import Callable, Iterator
from typing import Final

from . import frames, headers
from .deframer import PREFIX, ReceiveBudget
from .events import CallStarted, Cancelled, ConnectionEnded, Event, MessageReceived
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
    LARGEST_WINDOW,
    LAST_STREAM_ID,
    NUMBER,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    STREAM_ID_MASK,
    WINDOW_UPDATE,
    ErrorCode,
    ProtocolError,
    StreamError,
    exactly,
    unpadded,
)
from .header_blocks import MAX_PENDING_BYTES, MAX_STREAMS, HeaderBlocks
from .headers import HeaderListTooLarge, NotGrpc
from .receiver import MAX_TURN_FRAMES, Receiver
from .sender import Sender
from .stream import STREAM_WINDOW, Stream

WORK_BYTES: Final = 64
"""Of a header block, that count as a frame more."""
RESET_WORK: Final = 3
"""What a stream that is refused or reset here counts more."""

_event: Final = tuple.__new__
"""A named tuple's own constructor costs 0.2 µs more, twice a call."""


class Connection:
    """The server's side of one connection."""

    def __init__(self, budget: ReceiveBudget) -> None:
        self.streams: dict[int, Stream] = {}
        """Those that are open or half-closed."""
        self.preface_received = False
        self.closed = False
        self._settings_received = False
        self._buffer = b""
        self._has_frames = False  # what is buffered may have a whole frame
        self._goaway_sent = False
        self._events: list[Event] = []
        self._output: list[bytes | memoryview] = []
        receiver = self._receiver = Receiver(budget, self.streams, self._output, self._events)
        sender = self._sender = Sender(self.streams, self._output, self._events, receiver.forget)
        self._blocks = HeaderBlocks(self.streams, sender, receiver, self._events)
        # What is asked of these parts, without a call more.
        self.pause, self.resume = receiver.pause, receiver.resume
        self.send_unary, self.send_headers = sender.send_unary, sender.send_headers
        self.send_message, self.send_trailers = sender.send_message, sender.send_trailers
        self.reset = sender.reset

    @property
    def pending_bytes(self) -> int:
        """Of messages that the client's windows hold back."""
        return self._sender.pending_bytes

    @property
    def last_stream_id(self) -> int:
        """The highest stream that was begun."""
        return self._blocks.last_stream_id

    @property
    def has_unread(self) -> bool:
        """True while `receive_data` has more to do with what it has: it stops after a turn's frames."""
        return self._has_frames or bool(self._receiver.backlog)

    def receive_data(self, data: bytes) -> Iterator[Event]:
        """Takes bytes of the client's and yields what they mean. To be iterated to the end."""
        if self._buffer:
            data = self._buffer + data
        self._buffer, self._has_frames = data, False
        try:
            yield from self._receive(data)
        except ProtocolError as error:
            self._output.append(frames.goaway(self._blocks.last_stream_id, error.code, str(error)))
            self.close()
            yield ConnectionEnded(error.code, str(error))

    def data_to_send(self) -> bytes:
        """Returns what is to be written, and forgets it."""
        if not self._output:
            return b""
        data = b"".join(self._output)
        self._output.clear()
        return data

    def goaway(self, *, final: bool = False) -> None:
        """Asks the client to open no more streams here; those on their way are served, or once ``final`` refused."""
        if self.closed or not self.preface_received:
            return
        if final:
            self._blocks.admitted = self._blocks.last_stream_id
            self._output.append(frames.goaway(self._blocks.last_stream_id))
        elif not self._goaway_sent:
            self._output.append(frames.goaway(LAST_STREAM_ID))
        self._goaway_sent = True

    def close(self) -> None:
        """Lets go of what the streams hold; `streams` is left for the server to see whose calls have ended."""
        self.closed = True
        self._buffer, self._has_frames = b"", False
        self._receiver.backlog.clear()
        self._sender.close_all()

    def _receive(self, data: bytes) -> Iterator[Event]:  # noqa: C901, PLR0912, PLR0914, PLR0915 - a call costs 0.1 µs
        receiver, sender, blocks, streams = self._receiver, self._sender, self._blocks, self.streams
        left, receiver.work = MAX_TURN_FRAMES, 0
        if receiver.backlog:
            for _ in receiver.read_backlog():
                yield from self._take_events()
            left, receiver.work = left - receiver.work, 0
            if receiver.backlog:
                self._has_frames = True
                return
        at, end = 0 if self.preface_received else self._receive_preface(data), len(data)
        if not self.preface_received:
            return
        known = blocks.reader.known
        unpack: Callable[[bytes, int], tuple[int, int, int, int, int]] = FRAME_HEADER.unpack_from
        prefix: Callable[[bytes, int], tuple[int, int]] = PREFIX.unpack_from
        number: Callable[[bytes, int], tuple[int]] = NUMBER.unpack_from
        is_usual = self._settings_received and blocks.unfinished is None
        while end - at >= 9:
            high, low, kind, flags, stream_id = unpack(data, at)
            start, size = at + 9, high << 8 | low
            stop = start + size
            if size > DEFAULT_FRAME_SIZE:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {size} bytes: {DEFAULT_FRAME_SIZE} may be")
            if stop > end:
                break
            if left <= 0:
                self._has_frames = True
                break
            left -= 1
            at = stop
            if not is_usual:
                pass
            elif kind == DATA:
                stream = streams.get(stream_id)
                if flags <= END_STREAM and stream is not None and stream.deframer is None and not stream.half_closed:
                    if stream.first is not None:
                        if flags and not size:  # h2load and Node end a request by a frame of its own
                            stream.half_closed = stream.announced = True
                            yield _event(MessageReceived, (stream, receiver.take_first(stream), True))
                            continue
                    elif size >= 5 and (stream.head.content_length is None or stream.head.content_length == size):
                        compressed, length = prefix(data, start)
                        if not compressed and length == size - 5:
                            if flags:
                                receiver.received += size
                                stream.half_closed = stream.announced = True
                                yield _event(MessageReceived, (stream, data[start + 5 : stop], True))
                                continue
                            if stream.whole_only and receiver.budget.has_room(length):
                                receiver.received += size
                                stream.received = stream.content_received = size
                                stream.first = data[start + 5 : stop]
                                receiver.budget.take(length)
                                continue
            elif kind == HEADERS:
                left -= size // WORK_BYTES
                if (
                    flags == END_HEADERS
                    and blocks.last_stream_id < stream_id <= blocks.admitted
                    and stream_id & 1
                    and len(streams) < MAX_STREAMS
                    and sender.pending_bytes <= MAX_PENDING_BYTES
                ):
                    blocks.last_stream_id = stream_id
                    block = data[start:stop]
                    head = known.get(block)
                    if head is None:
                        try:
                            head = blocks.reader.read(block)
                        except (StreamError, HeaderListTooLarge, NotGrpc) as error:
                            if isinstance(error, StreamError):
                                self._reset(stream_id, error.code)
                            else:
                                blocks.refuse(stream_id, flags, error)
                            left -= RESET_WORK
                            yield from self._take_events()
                            continue
                    stream = streams[stream_id] = Stream(stream_id, head)
                    if receiver.stream_window > STREAM_WINDOW:
                        stream.window = receiver.stream_window
                    yield _event(CallStarted, (stream,))
                    continue
            elif kind == WINDOW_UPDATE and size == 4:  # gRPC's own clients send two with each request
                (increment,) = number(data, start)
                if not stream_id:
                    if 0 < increment <= LARGEST_WINDOW - sender.window and not sender.waiting_for_connection:
                        sender.window += increment
                        continue
                elif (stream := streams.get(stream_id)) is not None and stream_id not in sender.waiting_for_stream:
                    extra = stream.extra + increment
                    if increment and extra <= LARGEST_WINDOW - sender.initial_window:
                        stream.extra = extra
                        continue
            self._receive_frame(kind, flags, stream_id & STREAM_ID_MASK, data, start, stop)
            is_usual = self._settings_received and blocks.unfinished is None
            if receiver.work:
                left, receiver.work = left - receiver.work, 0
            if self._events:
                left -= len(self._events)
                yield from self._take_events()
            if receiver.backlog:  # a stream has more messages than a turn's
                self._has_frames = True
                break
        self._buffer = data[at:]
        receiver.grant_connection()

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
        self._receiver.grant_connection()
        return len(PREFACE)

    def _take_events(self) -> list[Event]:
        events = self._events.copy()
        self._events.clear()
        return events

    def _receive_frame(self, kind: int, flags: int, stream_id: int, data: bytes, start: int, stop: int) -> None:
        if not self._settings_received and (kind != SETTINGS or flags & ACK):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "the first frame must be SETTINGS")
        unfinished = self._blocks.unfinished
        if unfinished is not None and (kind != CONTINUATION or stream_id != unfinished[0]):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a header block must not be interrupted")
        receive = _RECEIVERS.get(kind)
        if receive is None:
            return  # frames of unknown types are passed over (section 4.1)
        try:
            receive(self, flags, stream_id, data, start, stop)
        except StreamError as error:
            self._reset(stream_id, error.code)

    def _reset(self, stream_id: int, code: ErrorCode) -> None:
        """A stream error (section 5.4.2)."""
        stream = self.streams.get(stream_id)
        self._receiver.work += RESET_WORK
        if stream is None:
            self._output.append(frames.rst_stream(stream_id, code))
            self._sender.ignore(stream_id)
        else:
            self._sender.reset(stream, code)
            self._events.append(Cancelled(stream, code))

    def _on_data(self, flags: int, stream_id: int, data: bytes, start: int, stop: int) -> None:
        receiver, ignored = self._receiver, self._sender.ignored
        receiver.received += stop - start
        if stream_id == 0 or stream_id > self._blocks.last_stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "DATA on a stream that is idle")
        stream = self.streams.get(stream_id)
        if stream is not None and not stream.half_closed:
            stream.received += stop - start
            if stream.received > stream.window:
                raise StreamError(ErrorCode.FLOW_CONTROL_ERROR, "more data than the stream's window allows")
        if flags & PADDED:
            start, stop = unpadded(data, start, stop)
        if stream is not None and not stream.half_closed:
            receiver.take_data(stream, memoryview(data)[start:stop], ends=bool(flags & END_STREAM))
        elif stream_id not in ignored:
            raise StreamError(ErrorCode.STREAM_CLOSED, "DATA after the end of the stream")
        elif flags & END_STREAM:
            del ignored[stream_id]

    def _on_headers(self, flags: int, stream_id: int, data: bytes, start: int, stop: int) -> None:
        self._blocks.on_headers(flags, stream_id, data, start, stop)

    def _on_continuation(self, flags: int, stream_id: int, data: bytes, start: int, stop: int) -> None:
        self._receiver.work += (stop - start) // WORK_BYTES
        self._blocks.on_continuation(flags, stream_id, data, start, stop)

    def _on_priority(self, _flags: int, stream_id: int, data: bytes, start: int, stop: int) -> None:
        if stream_id == 0:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if stop - start != 5:
            raise StreamError(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY has 5 bytes")
        if NUMBER.unpack_from(data, start)[0] & STREAM_ID_MASK == stream_id:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, "a stream cannot depend on itself")

    def _on_rst_stream(self, _flags: int, stream_id: int, data: bytes, start: int, stop: int) -> None:
        (code,) = exactly(NUMBER, data, start, stop)
        if stream_id == 0 or stream_id > self._blocks.last_stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "RST_STREAM on a stream that is idle")
        self._sender.ignored.pop(stream_id, None)
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._sender.close(stream)
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
                self._sender.max_frame_size = value
            elif name == frames.INITIAL_WINDOW_SIZE:
                self._sender.set_initial_window(value)
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
        (increment,) = exactly(NUMBER, data, start, stop)
        increment &= STREAM_ID_MASK
        if stream_id == 0:
            if increment == 0:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
            self._sender.open_window(increment)
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            if stream_id > self._blocks.last_stream_id:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE on a stream that is idle")
            return
        if increment == 0:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
        self._sender.open_stream_window(stream, increment)


_RECEIVERS: Final = {
    DATA: Connection._on_data,  # noqa: SLF001
    HEADERS: Connection._on_headers,  # noqa: SLF001
    PRIORITY: Connection._on_priority,  # noqa: SLF001
    RST_STREAM: Connection._on_rst_stream,  # noqa: SLF001
    SETTINGS: Connection._on_settings,  # noqa: SLF001
    PUSH_PROMISE: Connection._on_push_promise,  # noqa: SLF001
    PING: Connection._on_ping,  # noqa: SLF001
    GOAWAY: Connection._on_goaway,  # noqa: SLF001
    WINDOW_UPDATE: Connection._on_window_update,  # noqa: SLF001
    CONTINUATION: Connection._on_continuation,  # noqa: SLF001
}
