"""The interface between a transport and the methods that it serves."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from service.rpc.tls_files import TlsFiles


class Call(ABC):
    """One unary call of a deferred method: bytes in, and bytes or an error out, from any thread."""

    __slots__ = ("_abandoned", "_on_cancel", "deadline", "payload", "source")

    def __init__(self, payload: bytes, time_remaining_s: float | None, source: Hashable = None) -> None:
        self.payload = payload
        self.source = source
        """The caller's connection, as far as the transport knows it."""
        self.deadline = None if time_remaining_s is None else time.monotonic() + time_remaining_s
        """When the caller stops to wait, on ``time.monotonic``'s clock."""
        self._on_cancel: Callable[[], None] | None = None
        self._abandoned = False

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
        """The transport's word that nobody waits for the answer any more."""
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

    @property
    def services(self) -> tuple[str, ...]:
        """The names of the services these methods belong to."""
        return tuple(sorted({path.split("/")[1] for path in (*self.deferred, *self.immediate, *self.bidi)}))


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


class Transport(ABC):
    """A listening server. A context manager: entering listens, leaving closes."""

    port: int
    """The TCP port it listens on."""

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
