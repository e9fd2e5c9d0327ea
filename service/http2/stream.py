"""A stream: a request and its answer (RFC 9113, section 5)."""

from collections import deque
from typing import Any, Final

from .deframer import MessageDeframer
from .headers import RequestHead

STREAM_WINDOW: Final = 2**20
LARGE_STREAM_WINDOW: Final = 2**24
"""Octets that may be on their way on a stream: what is held is the budget's to bound. A message longer than this is
allowed whole once its length is known, which costs a round trip; so a connection on which such a one has come for a
unary method gets the large window for its streams."""


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
    """Set by `Receiver.pause`."""
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
