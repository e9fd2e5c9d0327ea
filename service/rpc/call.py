"""The interface between a transport and the methods that it serves."""

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from google.protobuf.message import Message

from .tls_files import TlsFiles

REQUEST_ID = "x-request-id"
MAX_ID = 128
"""Characters of a caller's id that are repeated."""
Metadata = Callable[[str], str | None]
"""Finds a field of the caller's metadata by its name in lower case."""


class Call(ABC):
    """One unary call of a deferred method: bytes in, and bytes or an error out, from any thread."""

    __slots__ = ("_abandoned", "_on_cancel", "_request_id", "deadline", "model", "payload", "request", "source")
    _request_id: str

    def __init__(self, payload: bytes, time_remaining_s: float | None, source: Hashable = None) -> None:
        self.payload = payload
        self.source = source
        """The caller's connection, as far as the transport knows it."""
        self.deadline = None if time_remaining_s is None else time.monotonic() + time_remaining_s
        """When the caller stops to wait, on ``time.monotonic``'s clock."""
        self.model: Any = None
        """The endpoint that was asked, with its name and version, and the batcher's request: set by the method as soon
        as they are known, for the log line about the call."""
        self.request: Any = None
        self._on_cancel: Callable[[], None] | None = None
        self._abandoned = False

    @property
    @abstractmethod
    def path(self) -> str:
        """The full name of its method."""

    @property
    @abstractmethod
    def peer_name(self) -> str:
        """The caller's address."""

    def request_id(self, given: str = "") -> str:
        """The caller's ``x-request-id``, else the id that is given, else one of ours: the same from then on."""
        try:
            return self._request_id
        except AttributeError:  # most calls are never asked
            self._request_id = request_id(self.metadata) if not given or self.metadata(REQUEST_ID) else printable(given)
        return self._request_id

    @abstractmethod
    def metadata(self, name: str) -> str | None:
        """Returns a field of the caller's metadata (``traceparent``, ``authorization``) by its name in lower case."""

    @abstractmethod
    def respond(self, payload: bytes) -> None:
        """Answers the call."""

    @abstractmethod
    def fail(self, error: Exception) -> None:
        """Answers the call with the status of this error."""

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Calls back, once or twice, when the caller has gone away or its deadline has passed."""
        self._on_cancel = callback
        if self._abandoned:
            callback()

    def cancel(self) -> None:
        """Tells the method that the response is not wanted any more."""
        self._abandoned = True
        if self._on_cancel is not None:
            self._on_cancel()


STREAM_AHEAD = 64
"""Most requests of one stream in flight, before its client is left to wait."""

DeferredMethod = Callable[[Call], None]
"""Takes a call, never blocks, and sees to it that it is answered; what it raises is the answer too."""

Dispatch = Callable[[], bool]
"""Does what deferred methods have put off until their burst was complete: short work in the calling thread, the rest
in threads of its own. Returns whether those are at work now."""


@dataclass(frozen=True)
class ImmediateMethod:
    """A method that answers at once: a message in, a message out, or a ServiceError raised."""

    request: type[Message]
    answer: Callable[[Any], Message]


@dataclass(frozen=True)
class BidiMethod:
    """A bidirectional stream: each message in is a call of a deferred method, its answer, wrapped, a message out."""

    method: DeferredMethod
    wrap: Callable[[bytes, bytes | str], bytes]
    """The message out: from the message in, and the answer of the method or the message of its error."""


@dataclass(frozen=True)
class Methods:
    """What is served, by full method name (``/package.Service/Method``)."""

    deferred: Mapping[str, DeferredMethod]
    immediate: Mapping[str, ImmediateMethod]
    bidi: Mapping[str, BidiMethod] = field(default_factory=dict)

    def __or__(self, other: "Methods") -> "Methods":
        return Methods(
            {**self.deferred, **other.deferred}, {**self.immediate, **other.immediate}, {**self.bidi, **other.bidi}
        )

    def map_deferred(self, change: Callable[[str, DeferredMethod], DeferredMethod]) -> "Methods":
        """The same methods, with something done to each deferred one, those of streams among them."""
        return Methods(
            {path: change(path, method) for path, method in self.deferred.items()},
            self.immediate,
            {path: BidiMethod(change(path, bidi.method), bidi.wrap) for path, bidi in self.bidi.items()},
        )

    @property
    def services(self) -> tuple[str, ...]:
        """The names of the services these methods belong to."""
        return tuple(sorted({path.split("/")[1] for path in (*self.deferred, *self.immediate, *self.bidi)}))


@dataclass(frozen=True)
class SlowCalls:
    """What is done about calls of deferred methods that took long, from their queue to their answer."""

    limit_s: float
    tell: Callable[[Call, bytes | Exception], None]
    """Called with the answer."""


ImmediateObserver = Callable[["ImmediateCall"], None]


@dataclass(frozen=True)
class ImmediateCall:
    """How a call of an immediate method went."""

    path: str
    metadata: Metadata
    peer_name: str
    error: Exception | None
    began_ns: int


Check = Callable[[str, str | None], None]
"""Asked at the beginning of each call, by its path and the metadata ``authorization``; what it raises is the answer."""


@dataclass(frozen=True)
class TransportOptions:
    """How a transport behaves."""

    max_message_bytes: int
    """Of a message received."""
    tls: TlsFiles | None = None
    reuse_port: bool = False
    """Others may serve the port too."""
    busy_poll_s: float = 0.0
    """native: how long to look for the next requests before sleeping, if the last ones came within twice that."""
    connection_idle_s: float = 0.0
    """Connections without a request for so long are asked to go; 0: never."""
    max_connection_age_s: float = 0.0
    """Connections are asked to go after so long; 0: never."""
    max_connection_age_grace_s: float = 30.0
    """native: how long those that were asked to go by their age may take."""
    check: Check | None = None
    """None: every caller may call everything."""
    slow_calls: SlowCalls | None = None
    on_immediate: ImmediateObserver | None = None
    """Told of each call of an immediate method."""


class Transport(ABC):
    """A listening server. A context manager: entering listens, leaving closes."""

    port: int
    """The TCP port it listens on."""

    @abstractmethod
    def __enter__(self) -> Self:
        """Listens; raises StartError where the address cannot be had."""

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends all calls."""

    @abstractmethod
    def call_soon(self, callback: Callable[[], None]) -> None:
        """Has something done by the thread that receives; any thread may ask."""

    @abstractmethod
    def set_ready(self, serving: Mapping[str, bool]) -> None:
        """Tells the health protocol which names are serving."""

    @abstractmethod
    def hand_over(self, timeout_s: float, abort: Callable[[], bool]) -> bool:
        """Leaves the port to the others that serve it, and has its clients go there.

        False if some had not gone when time ran out, or when ``abort`` said to wait no longer.
        """

    @abstractmethod
    def send_goaway(self) -> None:
        """Asks the clients that are connected to connect anew; what they still send is served."""

    @abstractmethod
    def leave(self, timeout_s: float) -> None:
        """Accepts no more connections, and asks all clients to go; what they still send is served meanwhile."""

    @abstractmethod
    def stop_admitting(self) -> None:
        """Refuses new deferred calls from now on."""

    @abstractmethod
    def drain(self, timeout_s: float) -> bool:
        """Waits, after ``stop_admitting``, until all calls in flight are answered; False if time ran out."""


def request_id(metadata: Metadata) -> str:
    """The caller's ``x-request-id``, else a new one of ours."""
    return printable(metadata(REQUEST_ID) or "") or secrets.token_hex(8)


def printable(text: str) -> str:
    """As much of a caller's text as is repeated, without what a terminal or a log might obey."""
    return "".join(character for character in text[:MAX_ID] if character.isprintable())
