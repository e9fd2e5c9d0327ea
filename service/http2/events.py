"""What the bytes of a client mean: the events of a connection."""

from typing import NamedTuple

from .frames import ErrorCode
from .stream import Stream


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
