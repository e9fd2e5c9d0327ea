"""What a connection hands its requests to, and what it knows of one until it is answered."""

from typing import Protocol

from service.http2.fields import RequestHead
from service.http2.messages import Messages

STREAM_WINDOW = 2**20
"""What may be sent on a stream before we allow more: a message that is longer is allowed whole once its length is
known, so that nothing waits for a round trip in between."""


class Connection(Protocol):
    """As it is seen by those who answer, in any thread but for `make_room`."""

    streams: "dict[int, Head | Receiving | Asked]"
    """Those that are open. A request is its head until data has come, then Receiving, and Asked when it is complete."""

    def answer(self, stream: int, payload: bytes) -> None:
        """The whole answer of a unary call."""

    def send(self, stream: int, payload: bytes) -> None:
        """One message of an answer that may have more."""

    def finish(self, stream: int, code: int = 0, message: str = "", *, early: bool = False) -> None:
        """The end of an answer, or an error in its place; ``early``: before the request has ended."""

    def fail(self, stream: int, error: Exception, *, early: bool = False) -> None:
        """As ``finish``, with the code and the message of this error."""

    def make_room(self, stream: int) -> None:
        """Lets the client of an exchange that was full send more. To be called by the thread that receives."""


# Plain classes: `isinstance`, asked twice for each request, takes 0.03 µs for these and 0.18 for abstract ones.


class Unary:
    """A method that takes one message."""

    def call(self, connection: Connection, stream: int, timeout_s: float | None, payload: bytes) -> None:
        """Has the request answered, now or later, through the connection, in whose ``streams`` it takes its place."""
        raise NotImplementedError


class Streaming:
    """A method that takes messages as they come."""

    def open(self, connection: Connection, stream: int, timeout_s: float | None) -> "Exchange":
        """A request has begun."""
        raise NotImplementedError


class Exchange(Protocol):
    """One request whose messages are taken as they come."""

    def take(self, payload: bytes) -> None:
        """A message."""

    def end(self) -> None:
        """There are no more."""

    def holds_back(self) -> bool:
        """Whether the client had better wait before it sends more; ``make_room`` is called when it need not."""

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""


class Asked(Protocol):
    """A request that has been received."""

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""


Method = Unary | Streaming
Head = RequestHead[Method | None]


class Receiving:
    """A request of which more is to come."""

    __slots__ = ("allowed", "ended", "exchange", "head", "messages", "received", "unary")

    def __init__(self, head: Head, messages: Messages, exchange: Exchange | None) -> None:
        self.head = head
        self.messages = messages
        self.exchange = exchange
        self.unary: bytes | None = None
        """The one message of a unary method, when it has come."""
        self.received = 0
        self.allowed = STREAM_WINDOW
        self.ended = False

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""
        self.messages.drop()
        if self.exchange is not None:
            self.exchange.cancel()
