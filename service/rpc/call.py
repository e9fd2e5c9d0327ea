"""The interface between a transport and those who answer: calls, methods, and the traffic in flight."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from service.errors import Overloaded, Stopping


class Call(ABC):
    """One unary call of a hot method: bytes in, and bytes or an error out, from any thread."""

    __slots__ = ("_abandoned", "_on_cancel", "deadline", "payload")

    def __init__(self, payload: bytes, time_remaining_s: float | None) -> None:
        self.payload = payload
        self.deadline = None if time_remaining_s is None else time.monotonic() + time_remaining_s
        """When the caller stops to wait, on ``time.monotonic``'s clock."""
        self._on_cancel: Callable[[], None] | None = None
        self._abandoned = False

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

HotMethod = Callable[[Call], None]
"""Takes a call, never blocks, and sees to it that it is answered; what it raises is the answer too."""

Settle = Callable[[], bool]
"""Does what hot methods have put off until their burst of calls was complete: short work in the calling thread, all
other work in threads of its own; whether those are at work on it now."""


@dataclass(frozen=True)
class ColdMethod:
    """A method that answers at once: a message in, a message out, or a ServiceError raised."""

    request: type[Message]
    answer: Callable[[Any], Message]


@dataclass(frozen=True)
class StreamMethod:
    """A bidirectional stream: each message in is a call of a hot method, its answer, wrapped, a message out."""

    method: HotMethod
    wrap: Callable[[bytes | str], bytes]
    """The message out: from the answer of the method, or from the message of its error."""


@dataclass(frozen=True)
class Methods:
    """What is served, by full method name (``/package.Service/Method``)."""

    hot: Mapping[str, HotMethod]
    cold: Mapping[str, ColdMethod]
    streams: Mapping[str, StreamMethod] = field(default_factory=dict)

    def __or__(self, other: "Methods") -> "Methods":
        return Methods({**self.hot, **other.hot}, {**self.cold, **other.cold}, {**self.streams, **other.streams})

    @property
    def services(self) -> tuple[str, ...]:
        """The names of the services these methods belong to."""
        return tuple(sorted({path.split("/")[1] for path in (*self.hot, *self.cold, *self.streams)}))


class Traffic:
    """The hot calls in flight, and the gate in front of them."""

    def __init__(self, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._calls: dict[Hashable, Call] = {}
        self._closed = False
        self._refused = 0
        self._idle = threading.Event()

    def serve(self, key: Hashable, call: Call, method: HotMethod) -> None:
        """Gives the call to its method, or refuses it; what the method raises becomes its answer."""
        self._calls[key] = call
        try:
            if self._closed:
                self._refused += 1
                raise Stopping("The server is stopping and takes no more requests.")
            if len(call.payload) > self._max_message_bytes:
                raise Overloaded(
                    f"Received message larger than max ({len(call.payload)} vs. {self._max_message_bytes} bytes)"
                )
            method(call)
        except Exception as error:
            call.fail(error)

    def cancel(self, key: Hashable) -> None:
        """The caller of this call has gone away."""
        call = self._calls.pop(key, None)
        if call is not None:
            call.cancel()
            self._note_idle()

    def finished(self, key: Hashable) -> None:
        """The call has its answer."""
        self._calls.pop(key, None)
        if self._closed:
            self._note_idle()

    def refuse(self) -> None:
        """Refuses new calls from now on."""
        self._closed = True
        self._note_idle()

    def drain(self, timeout_s: float) -> bool:
        """Waits until the calls in flight are answered, after ``refuse``; False if time ran out."""
        return self._idle.wait(timeout_s)

    def fall_silent(self, silence_s: float, timeout_s: float) -> None:
        """Waits, after ``refuse``, until no call has come for so long; no longer than the timeout.

        What was on its way then has been refused with a sentence, and not by whoever closes the connections.
        """
        ends = time.monotonic() + timeout_s
        refused = -1
        while self._refused != refused and time.monotonic() < ends:
            refused = self._refused
            time.sleep(silence_s)

    def _note_idle(self) -> None:
        if self._closed and not self._calls:
            self._idle.set()


class Transport(ABC):
    """A listening server. A context manager: entering listens, leaving closes."""

    port: int
    """The TCP port it listens on."""

    @abstractmethod
    def set_ready(self, serving: Mapping[str, bool]) -> None:
        """Tells the health protocol which names are serving."""

    @abstractmethod
    def retire(self, timeout_s: float, hurried: Callable[[], bool]) -> bool:
        """Leaves the port to the others that serve it, and has its clients go there.

        False if some had not gone when time ran out, or when ``hurried`` said to wait no longer.
        """

    @abstractmethod
    def refuse(self) -> None:
        """Refuses new hot calls from now on."""

    @abstractmethod
    def drain(self, timeout_s: float) -> bool:
        """Waits until the hot calls in flight have their answers, after ``refuse``; False if time ran out."""
