"""What is received on a connection's streams: data becomes messages, and the windows for more are opened."""

from collections.abc import Iterator
from typing import Final

from ..errors import InvalidRequest
from . import frames
from .deframer import PREFIX, ConnectionBudget, MessageDeframer, ReceiveBudget
from .events import Event, HalfClosed, MessageReceived, RequestRejected
from .frames import ErrorCode, ProtocolError, StreamError
from .stream import LARGE_STREAM_WINDOW, STREAM_WINDOW, Stream

CONNECTION_WINDOW: Final = 2**26
"""Octets that may be on their way on a connection."""
MAX_TURN_FRAMES: Final = 512
"""Frames, and messages of frames, that are read before it is other connections' turn."""


class Receiver:
    """Reads the messages of the streams of one connection."""

    def __init__(
        self,
        budget: ReceiveBudget,
        streams: dict[int, Stream],
        output: list[bytes | memoryview],
        events: list[Event],
    ) -> None:
        """``streams``, ``output`` and ``events`` are the connection's."""
        self.budget = ConnectionBudget(budget)
        self.received = 0
        """Octets of DATA so far."""
        self.stream_window = STREAM_WINDOW
        """What a new stream's client may send."""
        self.backlog: dict[int, Stream] = {}
        """Streams with messages to be read in the next turn."""
        self.work = 0
        """Of this turn, beside frames, in frames."""
        self._granted = frames.DEFAULT_WINDOW
        self._streams = streams
        self._output = output
        self._events = events

    def take_data(self, stream: Stream, data: memoryview, *, ends: bool) -> None:
        """Takes a piece of a request's data; raises StreamError."""
        if stream.deframer is None:
            stream.deframer = MessageDeframer(self.budget, stream.head.encoding)
        try:
            if stream.first is not None:
                first = self.take_first(stream)
                stream.deframer.receive_data(PREFIX.pack(0, len(first)) + first)
            stream.deframer.receive_data(data)
        except Exception as error:
            self.reject(stream, error)
            return
        if stream.head.content_length is not None:
            stream.content_received += len(data)
            check_content(stream, ended=ends)
        stream.half_closed = ends
        self._read_messages(stream)
        self._grant(stream)

    def take_first(self, stream: Stream) -> bytes:
        """Returns the message that was kept."""
        first, stream.first = stream.first, None
        assert first is not None  # noqa: S101 - its callers have looked
        self.budget.give_back(len(first))
        return first

    def reject(self, stream: Stream, error: Exception) -> None:
        """Reads no more of a request that the server is to answer with an error."""
        self.forget(stream)
        stream.paused = stream.announced = True
        self._events.append(RequestRejected(stream, error))

    def forget(self, stream: Stream) -> None:
        """Lets go of what of a request is held."""
        self.backlog.pop(stream.id, None)
        if stream.first is not None:
            self.take_first(stream)
        if stream.deframer is not None:
            stream.deframer.discard()

    def pause(self, stream: Stream) -> None:
        """Has no more messages of a stream, and its client's window closed, until `resume`."""
        stream.paused = True

    def resume(self, stream: Stream) -> None:
        """Has messages of the stream again, those that came meanwhile in the next turn: see ``backlog``."""
        if stream.paused and not stream.closed:
            stream.paused = False
            self._grant(stream)
            if not stream.announced and (stream.half_closed or (stream.deframer and stream.deframer.has_message)):
                self.backlog[stream.id] = stream

    def read_backlog(self) -> Iterator[None]:
        """Reads messages of the streams that have more than one, in turn, as many as are a turn's; stops at each."""
        while self.backlog and self.work < MAX_TURN_FRAMES:
            stream = self.backlog.pop(next(iter(self.backlog)))
            self.work += 1
            if not stream.closed:
                self._read_messages(stream)
                yield

    def grant_connection(self) -> None:
        """Opens the connection's window again, once half of it is used; raises ProtocolError where it was not kept."""
        if self._granted - self.received < CONNECTION_WINDOW // 2:
            if self.received > self._granted:
                raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window allows")
            self._output.append(frames.window_update(0, self.received + CONNECTION_WINDOW - self._granted))
            self._granted = self.received + CONNECTION_WINDOW

    def _read_messages(self, stream: Stream) -> None:
        """Reads one message, and leaves the others to `read_backlog`; or finds the end."""
        deframer = stream.deframer
        if stream.paused or (stream.whole_only and not stream.half_closed):
            return
        if deframer is not None:
            try:
                message = _next_message(deframer, half_closed=stream.half_closed)
            except Exception as error:
                self.reject(stream, error)
                return
            finally:
                self.work += deframer.take_work()
            more = deframer.has_message
            if message is not None:
                last = stream.half_closed and not more and not deframer.is_partial
                stream.announced = last
                self._events.append(MessageReceived(stream, message, last))
            if more or (message is not None and stream.half_closed and not stream.announced):
                self.backlog[stream.id] = stream
                return
        if stream.half_closed and not stream.announced:
            stream.announced = True
            self._events.append(HalfClosed(stream))

    def _grant(self, stream: Stream) -> None:
        """Opens the stream's window again, once half of it is used: for all of a message that has begun."""
        if stream.paused or stream.half_closed or stream.closed:
            return
        missing = 0 if stream.deframer is None else stream.deframer.missing
        if missing > self.stream_window and stream.whole_only and self.stream_window < LARGE_STREAM_WINDOW:
            self._enlarge_windows()
        needed = stream.received + missing + STREAM_WINDOW // 2
        if needed > stream.window:
            self._output.append(frames.window_update(stream.id, needed + STREAM_WINDOW // 2 - stream.window))
            stream.window = needed + STREAM_WINDOW // 2

    def _enlarge_windows(self) -> None:
        """Announces the large window, which opens those of the streams that there are by the difference."""
        more = LARGE_STREAM_WINDOW - self.stream_window
        self.stream_window = LARGE_STREAM_WINDOW
        self._output.append(frames.settings({frames.INITIAL_WINDOW_SIZE: LARGE_STREAM_WINDOW}))
        for stream in self._streams.values():
            stream.window += more


def check_content(stream: Stream, *, ended: bool) -> None:
    """Raises StreamError where the data are not as long as content-length says (section 8.1.1)."""
    stated, received = stream.head.content_length, stream.content_received
    if stated is not None and (received > stated or (ended and received != stated)):
        raise StreamError(ErrorCode.PROTOCOL_ERROR, "content-length is not the length of the data")


def _next_message(deframer: MessageDeframer, *, half_closed: bool) -> bytes | None:
    """Returns a message if one is complete; raises what the deframer does, or InvalidRequest for half of one."""
    message = deframer.next_message()
    if message is None and half_closed and deframer.is_partial and not deframer.has_message:
        raise InvalidRequest("the request ends in the middle of a message")
    return message
