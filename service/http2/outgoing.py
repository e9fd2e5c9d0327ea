"""The sending half of a connection: answers from any thread become frames, within what the peer allows.

Whoever has something to send posts it, and may flush. One thread at a time writes: others that come meanwhile leave
what they have posted to it, and never wait.
"""

import contextlib
import select
import socket
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from service.http2 import fields, frames
from service.http2.frames import DATA, END_HEADERS, END_STREAM, HEADERS, NUMBER, Code
from service.http2.messages import PREFIX
from service.http2.tls import Tls

Post = bytes | tuple[int, bytes] | Callable[[], None]
"""Frames; or a stream and its whole answer; or a call that sees to more than that."""
FULL_BYTES = 2**20
"""Unsent, beyond which nothing more is read from this peer: it causes answers and does not take them."""

# One answer is six pieces with the stream's number between them.
HEADERS_BEGIN = frames.beginning(HEADERS, END_HEADERS, len(fields.RESPONSE))
DONE_BEGIN = frames.beginning(HEADERS, END_HEADERS | END_STREAM, len(fields.DONE))


@dataclass(slots=True)
class _Waiting:
    """What a stream has to send and may not yet."""

    data: deque[memoryview] = field(default_factory=deque)
    trailers: bytes | None = None
    """The frames that end the stream, once all data is sent."""


class Outgoing:
    """What is sent on one socket. All but ``posted``, ``flush`` and ``idle`` is for posts, which run one at a time."""

    def __init__(
        self, connection: socket.socket, epoll: select.epoll, streams: dict[int, Any], tls: Tls | None = None
    ) -> None:
        """``streams``: those that are open, by number; this half takes out what it ends, the other what is reset.

        The socket must be known to ``epoll``, and is closed by ``close`` only.
        """
        self._socket = connection
        self._epoll = epoll
        self._streams = streams
        self._tls = tls
        self.posted: deque[Post] = deque()
        """What is to be sent; any thread may add to it, and should then see to it that it is flushed."""
        self._writing = threading.Lock()
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self._events = select.EPOLLIN
        self._frames: list[bytes | memoryview] = []
        self._window = self._initial_window = frames.WINDOW
        self._allowed: dict[int, int] = {}  # streams whose window differs from the initial one, and by how much
        self._most = frames.FRAME_BYTES
        self._waiting: dict[int, _Waiting] = {}
        self._begun: set[int] = set()  # streams whose headers are sent and whose trailers are not
        self.closed = False
        self.flush_scheduled = False
        """Whether somebody has seen to it that it will be flushed; see transport/flush_scope.py."""

    def flush(self) -> None:
        """Sends what is posted, as far as the peer and the socket take it."""
        # Asked again after the lock is given back: another thread may have posted, and found it taken.
        while self.posted and self._writing.acquire(blocking=False):
            try:
                self._take_posts()
                self._send()
            finally:
                self._writing.release()

    def resume(self) -> None:
        """Sends more, because the socket takes more."""
        with self._writing:
            self._send()

    @property
    def idle(self) -> bool:
        """Whether all that was posted is in the kernel's hands."""
        return not (self.posted or self._unsent or self._waiting or self._writing.locked()) or self.closed

    def close(self) -> None:
        """Closes the socket; what is not sent is lost."""
        # The lock, because the number of a closed socket may be another's while a thread still sends to it.
        with self._writing:
            if not self.closed:
                self.closed = True
                with contextlib.suppress(OSError):
                    self._epoll.unregister(self._socket)
                self._socket.close()
                self.posted.clear()
                self._unsent.clear()
                self._waiting.clear()

    # What follows happens in posts.

    def begin(self, stream: int) -> None:
        """The response's headers, once."""
        if stream not in self._begun:
            self._begun.add(stream)
            self._frames.append(frames.frame(HEADERS, END_HEADERS, stream, fields.RESPONSE))

    def message(self, stream: int, payload: bytes) -> None:
        """One message of an answer that may have more."""
        if stream in self._streams:
            self.begin(stream)
            self._data(stream, payload)

    def finish(self, stream: int, code: int, message: str, *, early: bool) -> None:
        """The end of an answer, or an error in its place. ``early``: the peer need not send the rest of its request."""
        if stream not in self._streams:
            return
        if code:
            block = fields.failure(code, message)
            # Headers and trailers in one, where there is no answer.
            block = block if stream in self._begun else fields.RESPONSE + block
        else:
            self.begin(stream)
            block = fields.DONE
        self._end(stream, frames.frame(HEADERS, END_HEADERS | END_STREAM, stream, block), early=early)

    def refuse(self, stream: int, status: int, message: str, *, early: bool) -> None:
        """An answer of HTTP, to what is no request of gRPC's."""
        if stream in self._streams:
            block = fields.refusal(status, message)
            self._end(stream, frames.frame(HEADERS, END_HEADERS | END_STREAM, stream, block), early=early)

    def widen(self, stream: int, octets: int) -> None:
        """The peer allows so many octets more, on a stream or (0) on all together."""
        if stream == 0:
            self._window += octets
            if not self._overflows(self._window):
                for waiting in list(self._waiting):
                    self._continue(waiting)
        elif stream in self._streams:
            self._allowed[stream] = self._allowed.get(stream, 0) + octets
            overflows = self._overflows(self._initial_window + self._allowed[stream])
            if stream in self._waiting and not overflows:
                self._continue(stream)

    def set_limits(self, initial_window: int | None, most: int | None) -> None:
        """The peer's settings, and our word that we follow them."""
        if most is not None:
            self._most = most
        if initial_window is not None:
            self._initial_window = initial_window
            if self._overflows(initial_window + max(self._allowed.values(), default=0)):
                return
        self._frames.append(frames.frame(frames.SETTINGS, frames.ACK, 0))
        for waiting in list(self._waiting):
            self._continue(waiting)

    def drop(self, stream: int) -> None:
        """The peer has reset the stream."""
        self._waiting.pop(stream, None)
        self._allowed.pop(stream, None)
        self._begun.discard(stream)

    def _overflows(self, window: int) -> bool:
        """Whether the peer allows more than can be counted. That ends its connection: whoever reads finds the end."""
        if window <= frames.MOST_WINDOW:
            return False
        self._frames.append(frames.go_away(0, Code.FLOW_CONTROL_ERROR, "a window overflows"))
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)
        return True

    def _take_posts(self) -> None:
        posted, streams, out = self.posted, self._streams, self._frames
        while posted:
            item = posted.popleft()
            if type(item) is tuple:
                stream, payload = item
                size = len(payload) + PREFIX.size
                if size > self._most or size > self._window or stream in self._allowed or size > self._initial_window:
                    self.message(stream, payload)
                    self.finish(stream, 0, "", early=False)
                elif streams.pop(stream, None) is not None:  # else it was reset meanwhile
                    self._window -= size
                    number = NUMBER.pack(stream)
                    out += (
                        *(HEADERS_BEGIN, number, fields.RESPONSE),
                        *(frames.beginning(DATA, 0, size), number, PREFIX.pack(0, len(payload)), payload),
                        *(DONE_BEGIN, number, fields.DONE),
                    )
            elif type(item) is bytes:
                out.append(item)
            else:
                item()  # type: ignore[operator]  # the third of the three

    def _data(self, stream: int, payload: bytes) -> None:
        waiting = self._waiting.setdefault(stream, _Waiting())
        waiting.data.append(memoryview(PREFIX.pack(0, len(payload)) + payload))
        self._continue(stream)

    def _end(self, stream: int, trailers: bytes, *, early: bool) -> None:
        if early:
            trailers += frames.reset(stream, Code.NO_ERROR)
        if stream in self._waiting:
            self._waiting[stream].trailers = trailers
        else:
            self._frames.append(trailers)
            self._forget(stream)

    def _continue(self, stream: int) -> None:
        """Lays out what a stream may send by now."""
        waiting = self._waiting[stream]
        if stream not in self._streams:
            self.drop(stream)
            return
        while waiting.data:
            data = waiting.data[0]
            allowed = self._allowed.get(stream, 0)
            size = min(len(data), self._most, self._window, self._initial_window + allowed)
            if size <= 0:
                return
            self._window -= size
            self._allowed[stream] = allowed - size
            self._frames.append(frames.beginning(DATA, 0, size) + NUMBER.pack(stream))
            self._frames.append(data[:size])
            if size == len(data):
                waiting.data.popleft()
            else:
                waiting.data[0] = data[size:]
        del self._waiting[stream]
        if waiting.trailers is not None:
            self._frames.append(waiting.trailers)
            self._forget(stream)

    def _forget(self, stream: int) -> None:
        self._streams.pop(stream, None)
        self.drop(stream)

    def _keep(self, data: bytes) -> None:
        if data:
            self._unsent.append(memoryview(data))
            self._unsent_bytes += len(data)

    def _send(self) -> None:
        """Writes what is laid out, behind what the socket did not take before, and sees what to wait for."""
        if self.closed:
            self._frames.clear()
            return
        if self._frames:
            data = b"".join(self._frames)
            self._frames.clear()
            self._keep(data if self._tls is None else self._tls.seal(data))
        while self._unsent:
            head = self._unsent[0]
            try:
                sent = self._socket.send(head)
            except BlockingIOError:
                break
            except OSError:  # it is gone; whoever reads sees it too
                self._unsent.clear()
                self._unsent_bytes = 0
                break
            self._unsent_bytes -= sent
            if sent < len(head):
                self._unsent[0] = head[sent:]
                break
            self._unsent.popleft()
        events = (select.EPOLLIN if self._unsent_bytes < FULL_BYTES else 0) | (select.EPOLLOUT if self._unsent else 0)
        if events != self._events:
            self._events = events
            with contextlib.suppress(OSError):
                self._epoll.modify(self._socket, events)
