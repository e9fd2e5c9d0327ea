"""The receiving half of a connection: bytes become requests, cancellations, and posts for the sending half.

One thread calls it. A request in one HEADERS and one DATA frame, as most are, costs about 3 µs; all others take a
longer way through the same checks.
"""

import struct
from collections.abc import Callable
from functools import partial

from service.errors import InvalidRequest, Unsupported
from service.http2 import frames
from service.http2.fields import MAX_LIST_BYTES, FieldReader, Malformed, RequestHead
from service.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES,
    GOAWAY,
    HEAD,
    HEADERS,
    NUMBER,
    PADDED,
    PING,
    PREFACE,
    PRIORITISED,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    STREAM,
    WINDOW_UPDATE,
    Code,
    Fault,
)
from service.http2.messages import PREFIX, Allowance, Messages
from service.http2.outgoing import Outgoing, Post
from service.http2.requests import STREAM_WINDOW, Asked, Connection, Head, Method, Receiving, Streaming, Unary

MAX_STREAMS = 1024
"""Requests that a connection may have open; more are turned away so that the client sends them again."""
MAX_BLOCK_BYTES = 65_536
"""Of one header block, compressed, in all its frames."""
RENEW_BYTES = 2**29
"""Received on a connection, after which its window is opened again; what is held is bounded by `Allowance`."""
GREETING = frames.settings(
    {
        frames.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
        frames.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
        frames.MAX_HEADER_LIST_SIZE: MAX_LIST_BYTES,
    }
) + frames.window_update(0, frames.MOST_WINDOW - frames.WINDOW)


class Incoming(Connection):
    """The receiving half of a connection, and what those who answer know of the whole."""

    def __init__(
        self,
        method_of: Callable[[str], Method | None],
        allowance: Allowance,
        connect: Callable[[dict[int, "Head | Receiving | Asked"]], Outgoing],
        status_of: Callable[[Exception], tuple[int, str]],
        schedule_flush: Callable[[Outgoing], None],
    ) -> None:
        """``method_of``: what serves a path, or None; ``status_of``: gRPC's code and message for an error.

        ``schedule_flush`` takes what is to be flushed; ``connect`` makes the sending half, which shares the streams.
        """
        self.streams: dict[int, Head | Receiving | Asked] = {}
        self.outgoing = connect(self.streams)
        self._fields: FieldReader[Method | None] = FieldReader(method_of)
        self._allowance = allowance
        self._status_of = status_of
        self._schedule_flush = schedule_flush
        self._rest = b""
        self.preface_received = False
        """Whether the client has said that it speaks HTTP/2."""
        self._last = 0
        self._unrenewed = 0
        self._block: tuple[int, int, list[bytes]] | None = None  # a header block that is not complete
        self._going = False

    # What is received.

    def receive(self, data: bytes) -> None:
        """Takes bytes from the socket; raises Fault where no more must be taken."""
        if self._rest:
            data = self._rest + data
        at, end = 0 if self.preface_received else self._receive_preface(data), len(data)
        streams, known, unpack, prefix = self.streams, self._fields.known, HEAD.unpack_from, PREFIX.unpack_from
        while self.preface_received and end - at >= 9:
            high, low, kind, flags, stream = unpack(data, at)
            start = at + 9
            at = start + (high << 8 | low)
            if at - start > FRAME_BYTES:
                raise Fault(Code.FRAME_SIZE_ERROR, f"a frame of {at - start} bytes: {FRAME_BYTES} may be")
            if at > end:
                at = start - 9
                break
            if kind == HEADERS and flags == END_HEADERS and self._last < stream <= STREAM and self._block is None:
                said = known.get(data[start:at])
                if said is not None and isinstance(said.method, Unary) and stream & 1 and len(streams) < MAX_STREAMS:
                    self._last = stream
                    streams[stream] = said
                    continue
            elif kind == DATA and flags == END_STREAM and at - start >= 5 and self._block is None:
                head = streams.get(stream)
                if type(head) is RequestHead:
                    flag, length = prefix(data, start)
                    method = head.method
                    if not flag and length == at - start - 5 and isinstance(method, Unary):
                        self._unrenewed += at - start
                        method.call(self, stream, head.timeout_s, data[start + 5 : at])
                        continue
            self._frame(kind, flags, stream & STREAM, data, start, at)
        self._rest = data[at:]
        if self._unrenewed >= RENEW_BYTES:
            self._post(frames.window_update(0, self._unrenewed))
            self._unrenewed = 0

    def _receive_preface(self, data: bytes) -> int:
        """Looks for what a client sends first; gives where the frames begin, once it is complete."""
        if not data.startswith(PREFACE[: len(data)]):
            raise Fault(Code.PROTOCOL_ERROR, "this is not HTTP/2: gRPC needs a client that begins with it")
        if len(data) < len(PREFACE):
            return 0
        self.preface_received = True
        self._post(GREETING)
        return len(PREFACE)

    def lost(self) -> None:
        """The connection has ended: so have all its requests."""
        for stream in list(self.streams):
            self._cancel(stream)
        self.outgoing.close()

    # What is answered, from any thread.

    def answer(self, stream: int, payload: bytes) -> None:
        """The whole answer of a unary call."""
        outgoing = self.outgoing  # as _post does, in one call less
        outgoing.posted.append((stream, payload))
        if not outgoing.flush_scheduled:
            self._schedule_flush(outgoing)

    def send(self, stream: int, payload: bytes) -> None:
        """One message of an answer that may have more."""
        self._post(partial(self.outgoing.message, stream, payload))

    def finish(self, stream: int, code: int = 0, message: str = "", *, early: bool = False) -> None:
        """The end of an answer, or an error in its place; ``early``: before the request has ended."""
        self._post(partial(self.outgoing.finish, stream, code, message, early=early))

    def fail(self, stream: int, error: Exception, *, early: bool = False) -> None:
        """As ``finish``, with the code and the message of this error."""
        code, message = self._status_of(error)
        self.finish(stream, code, message, early=early)

    def go_away(self) -> None:
        """Asks the client to open no more requests here; those that it has sent are answered."""
        if not self._going:
            self._going = True
            self._post(frames.go_away(STREAM))

    def make_room(self, stream: int) -> None:
        """Lets the client of an exchange that was full send more. To be called by the thread that receives."""
        request = self.streams.get(stream)
        if isinstance(request, Receiving):
            self._allow(stream, request)

    def _post(self, item: Post) -> None:
        outgoing = self.outgoing
        outgoing.posted.append(item)
        if not outgoing.flush_scheduled:
            self._schedule_flush(outgoing)

    def _frame(self, kind: int, flags: int, stream: int, data: bytes, start: int, end: int) -> None:
        """Any frame."""
        if self._block is not None and (kind != CONTINUATION or stream != self._block[0]):
            raise Fault(Code.PROTOCOL_ERROR, "a header block must not be interrupted")
        if kind == DATA:
            self._data(flags, stream, data, start, end)
        elif kind == HEADERS:
            start, end = _unpadded(flags, data, start, end)
            if flags & PRIORITISED:
                start += 5
            if stream % 2 == 0 or start > end:
                raise Fault(Code.PROTOCOL_ERROR, f"no request can be stream {stream}")
            self._begin_block(stream, flags, data[start:end])
        elif kind == CONTINUATION:
            if self._block is None:
                raise Fault(Code.PROTOCOL_ERROR, "nothing goes on here")
            self._continue_block(flags, data[start:end])
        elif kind == WINDOW_UPDATE:
            (octets,) = _exactly(NUMBER, data, start, end)
            octets &= STREAM
            if octets == 0:
                raise Fault(Code.PROTOCOL_ERROR, "a window cannot be opened by nothing")
            if stream == 0 or stream in self.streams:
                self._post(partial(self.outgoing.widen, stream, octets))
        elif kind == RST_STREAM:
            _exactly(NUMBER, data, start, end)
            if stream == 0 or stream > self._last:
                raise Fault(Code.PROTOCOL_ERROR, "a stream that was never opened cannot be reset")
            self._cancel(stream)
        elif kind == SETTINGS:
            self._settings(flags, stream, data[start:end])
        elif kind == PING:
            if end - start != 8:
                raise Fault(Code.FRAME_SIZE_ERROR, "a ping has 8 bytes")
            if not flags & ACK:
                self._post(frames.frame(PING, ACK, 0, data[start:end]))
        elif kind == PUSH_PROMISE:
            raise Fault(Code.PROTOCOL_ERROR, "clients promise nothing")
        elif kind == PRIORITY and end - start != 5:
            raise Fault(Code.FRAME_SIZE_ERROR, "a priority has 5 bytes")
        elif kind == GOAWAY and stream:
            raise Fault(Code.PROTOCOL_ERROR, "a connection ends as a whole")
        # Frames of kinds that are not known are to be passed over.

    def _settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream or len(payload) % frames.SETTING.size or (flags & ACK and payload):
            raise Fault(Code.FRAME_SIZE_ERROR, "these are no settings")
        if flags & ACK:
            return
        values = dict(frames.SETTING.iter_unpack(payload))
        window, most = values.get(frames.INITIAL_WINDOW_SIZE), values.get(frames.MAX_FRAME_SIZE)
        if window is not None and window > frames.MOST_WINDOW:
            raise Fault(Code.FLOW_CONTROL_ERROR, f"a window of {window}")
        if most is not None and not frames.FRAME_BYTES <= most <= frames.MOST_FRAME_BYTES:
            raise Fault(Code.PROTOCOL_ERROR, f"frames of {most} bytes")
        self._post(partial(self.outgoing.set_limits, window, most))

    def _begin_block(self, stream: int, flags: int, part: bytes) -> None:
        if flags & END_HEADERS:
            self._request(stream, flags, part)
        else:
            self._block = stream, flags, [part]

    def _continue_block(self, flags: int, part: bytes) -> None:
        assert self._block is not None  # noqa: S101 - its caller has looked
        stream, begun_with, parts = self._block
        parts.append(part)
        if sum(map(len, parts)) > MAX_BLOCK_BYTES or len(parts) > MAX_BLOCK_BYTES // 1024:
            raise Fault(Code.ENHANCE_YOUR_CALM, f"a header block of over {MAX_BLOCK_BYTES} bytes, or in too many parts")
        if flags & END_HEADERS:
            self._block = None
            self._request(stream, begun_with, b"".join(parts))

    def _request(self, stream: int, flags: int, block: bytes) -> None:
        """A request's header block, or its trailers."""
        ended = bool(flags & END_STREAM)
        if stream <= self._last:
            self._fields.skip(block)
            request = self.streams.get(stream)
            if request is not None and not ended:
                raise Fault(Code.PROTOCOL_ERROR, "trailers end a request")
            if isinstance(request, RequestHead) or (isinstance(request, Receiving) and not request.ended):
                self._complete(stream, self._received(stream, request))
            return
        self._last = stream
        try:
            head = self._fields.read(block)
        except Malformed as error:
            self.streams[stream] = _NOBODY
            self._post(partial(self.outgoing.refuse, stream, error.status, str(error), early=not ended))
            return
        if len(self.streams) >= MAX_STREAMS:
            self._post(frames.reset(stream, Code.REFUSED_STREAM))
            return
        self.streams[stream] = head
        method = head.method
        if method is None:
            self._turn_away(stream, Unsupported("Method not found!"), early=not ended)
        elif ended or isinstance(method, Streaming):
            request = self._received(stream, head)
            if ended:
                self._complete(stream, request)

    def _received(self, stream: int, request: "Head | Receiving") -> Receiving:
        """The request, as one of which more is to come."""
        if isinstance(request, Receiving):
            return request
        method = request.method
        # It must be known before its exchange opens, which may answer at once.
        receiving = self.streams[stream] = Receiving(request, Messages(self._allowance, request.encoding), None)
        if isinstance(method, Streaming):
            receiving.exchange = method.open(self, stream, request.timeout_s)
        return receiving

    def _data(self, flags: int, stream: int, data: bytes, start: int, end: int) -> None:
        self._unrenewed += end - start
        request = self.streams.get(stream)
        if type(request) is not Receiving:
            if stream == 0 or stream > self._last:
                raise Fault(Code.PROTOCOL_ERROR, "data of no request")
            if type(request) is not RequestHead:
                return  # it was answered or reset; the rest was on its way
            request = self._received(stream, request)
        request.received += end - start
        if request.received > request.allowed or request.ended:
            self._post(frames.reset(stream, Code.STREAM_CLOSED if request.ended else Code.FLOW_CONTROL_ERROR))
            self._cancel(stream)
            return
        if flags & PADDED:
            start, end = _unpadded(flags, data, start, end)
        try:
            for message in request.messages.feed(memoryview(data)[start:end]):
                self._message(stream, request, message)
        except Exception as error:
            self._turn_away(stream, error, early=not flags & END_STREAM)
            return
        if flags & END_STREAM:
            self._complete(stream, request)
        elif request.received + max(request.messages.missing, STREAM_WINDOW // 2) > request.allowed:
            self._allow(stream, request)

    def _message(self, stream: int, request: Receiving, message: bytes) -> None:
        if request.exchange is not None:
            if stream in self.streams:
                request.exchange.take(message)
        elif request.unary is None:
            request.unary = message
        else:
            raise InvalidRequest("the method takes one message, and this is the second")

    def _complete(self, stream: int, request: Receiving) -> None:
        """The request has ended."""
        request.ended = True
        if not request.messages.between:
            self._turn_away(stream, InvalidRequest("the request ends in the middle of a message"), early=False)
        elif request.exchange is not None:
            try:
                request.exchange.end()
            except Exception as error:
                self._turn_away(stream, error, early=False)
        elif request.unary is None:
            self._turn_away(stream, InvalidRequest("the request has no message"), early=False)
        elif isinstance(request.head.method, Unary):
            request.head.method.call(self, stream, request.head.timeout_s, request.unary)

    def _allow(self, stream: int, request: Receiving) -> None:
        """Lets the client send more: the rest of a message that has begun, and as much as it could at the start."""
        if request.exchange is not None and request.exchange.holds_back():
            return
        wanted = request.received + request.messages.missing + STREAM_WINDOW // 2
        if wanted > request.allowed:
            more = wanted + STREAM_WINDOW // 2 - request.allowed
            request.allowed += more
            self._post(frames.window_update(stream, more))

    def _turn_away(self, stream: int, error: Exception, *, early: bool) -> None:
        """Answers with an error; ``early``: more of the request is on its way, and will be passed over."""
        request = self.streams.get(stream)
        if isinstance(request, Receiving):
            request.cancel()
        self.streams[stream] = _NOBODY
        self.fail(stream, error, early=early)

    def _cancel(self, stream: int) -> None:
        request = self.streams.pop(stream, None)
        if request is not None:
            if not isinstance(request, RequestHead):
                request.cancel()
            self._post(partial(self.outgoing.drop, stream))


class _Nobody:
    """A request that is being refused."""

    def cancel(self) -> None:
        """It has its answer."""


_NOBODY = _Nobody()


def _unpadded(flags: int, data: bytes, start: int, end: int) -> tuple[int, int]:
    """Where a frame's content is, without the padding; raises Fault where there is more of it than frame."""
    if flags & PADDED:
        if start == end or data[start] >= end - start:
            raise Fault(Code.PROTOCOL_ERROR, "more padding than frame")
        end -= data[start]
        start += 1
    return start, end


def _exactly(form: struct.Struct, data: bytes, start: int, end: int) -> tuple[int, ...]:
    """The numbers of a frame that has these and nothing else."""
    if end - start != form.size:
        raise Fault(Code.FRAME_SIZE_ERROR, f"a frame of {end - start} bytes, not {form.size}")
    return form.unpack_from(data, start)
