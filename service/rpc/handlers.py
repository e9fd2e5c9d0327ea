"""What the native transport hands its requests to; all of it is called in the loop's thread."""

from functools import partial
from typing import Protocol

from ..http2.stream import Stream
from .call import request_id
from .event_loop import EventLoop
from .peer import Peer
from .status import status_of


class Responder:
    """The answer to one request, while it is being given."""

    __slots__ = ("_loop", "peer", "stream")

    def __init__(self, loop: EventLoop, peer: Peer, stream: Stream) -> None:
        self._loop = loop
        self.peer = peer
        self.stream = stream

    def send(self, payload: bytes) -> None:
        """Sends a message, as soon as the client's windows allow it."""
        self.peer.http2.send_message(self.stream, payload)
        self._loop.schedule_flush(self.peer)

    def finish(self) -> None:
        """Ends the answer."""
        self.peer.http2.send_trailers(self.stream)
        self._loop.schedule_flush(self.peer)

    def fail(self, error: Exception) -> None:
        """Ends the answer with the status of this error."""
        status = status_of(error, partial(request_id, self.stream.head.metadata))
        self.peer.http2.send_trailers(self.stream, status.code.value[0], status.message, status.pushback_ms)
        self._loop.schedule_flush(self.peer)

    def pause(self) -> None:
        """Has no more messages of the request until `resume`: its client is held back."""
        self.peer.http2.pause(self.stream)

    def resume(self) -> None:
        """Has messages again."""
        http2 = self.peer.http2
        http2.resume(self.stream)
        self._loop.schedule_flush(self.peer)
        if http2.has_unread:
            self._loop.schedule_read(self.peer)


class UnaryMethod:
    """A method that takes one message. A plain class: `isinstance` is asked twice for each request."""

    def call(self, peer: Peer, stream: Stream, payload: bytes) -> None:
        """Has the request answered, now or later, and keeps in ``stream.call`` what is to be cancelled with it."""
        raise NotImplementedError


class StreamingMethod:
    """A method that takes messages as they come."""

    def open(self, responder: Responder) -> "StreamingCall":
        """A request has begun."""
        raise NotImplementedError


class StreamingCall(Protocol):
    """One request whose messages are taken as they come; what is raised is its answer."""

    def on_message(self, payload: bytes) -> None:
        """Takes a message."""

    def on_half_close(self) -> None:
        """Takes note that there are no more."""

    def on_drained(self) -> None:
        """Takes note that the client has taken all that was sent."""

    def cancel(self) -> None:
        """Takes note that the response is not wanted any more."""
