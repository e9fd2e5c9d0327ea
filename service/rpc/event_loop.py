"""The sockets of the native transport, in one thread: epoll, accepting, TLS, timeouts, and a turn for everyone.

Knows bytes, connections and time; what the bytes mean is `service.http2`'s, and what is done about it the handler's.
"""

import contextlib
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import structlog

from ..http2.deframer import ReceiveBudget
from .call import TransportOptions
from .connection_age import Due, due
from .flush_scope import FlushScope
from .listener import ACCEPT_RETRY_S, Listener
from .peer import MAX_UNSENT_BYTES, Peer
from .tls_channel import TlsChannel
from .tls_files import TlsContexts

log = structlog.get_logger(__name__)

READ_BYTES = 2**18
"""Most that is read from a connection before it is the next one's turn."""
TICK_S = 0.025
"""How late a deadline may be enforced."""
IDLE_TICK_S = 1.0
LINGER_S = 1.0
"""How long a connection that ended in an error is read from, so that the client gets the GOAWAY and not a reset."""
REFUSALS_LOG_S = 1.0
"""Handshakes refused within so long are logged in one line."""


class Handler(Protocol):
    """What is done about what comes; called in the loop's thread."""

    def receive(self, peer: Peer, data: bytes) -> None:
        """Takes what a client has sent; b"": what the connection has not read yet is to be read."""

    def lost(self, peer: Peer) -> None:
        """Takes note that a connection is over."""

    def end_turn(self) -> bool:
        """Does what was put off until the turn's end; True: runs have begun in other threads."""

    def tick(self, now: float) -> bool:
        """Looks at the time; True: to be called again in TICK_S, not in IDLE_TICK_S."""


class EventLoop:
    """Serves the connections of one listening socket, in a thread of its own."""

    def __init__(
        self,
        handler: Handler,
        budget: ReceiveBudget,
        flush_scope: FlushScope,
        options: TransportOptions,
    ) -> None:
        self.options = options
        self._tls = None if options.tls is None else TlsContexts(options.tls)  # first: it may raise StartError
        self.peers: dict[int, Peer] = {}
        self.sent_bytes = 0
        """Of all connections, to see whether those that are waited for get on."""
        self._handler = handler
        self._budget = budget
        self._flush_scope = flush_scope
        self._epoll = select.epoll()
        self._wakeup_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._wakeup_pending = False
        self._callbacks: deque[Callable[[], None]] = deque()
        self._listener: Listener | None = None
        self._unread: dict[int, Peer] = {}  # those that have more to read than a turn's
        self._to_flush: dict[int, Peer] = {}
        self._stopped = False
        self._next_tick = 0.0
        self._busy_poll_active = False  # the last burst came soon after the one before
        self._refused_handshakes = 0
        self._refusals_logged_at = 0.0
        self._thread = threading.Thread(target=self._serve, name="native transport", daemon=True)
        self.thread_id = 0

    def listen(self, address: str) -> int:
        """Listens on ``host:port`` and begins to serve; returns the port. Raises StartError."""
        self._listener = Listener(address, self._epoll, reuse_port=self.options.reuse_port)
        self._epoll.register(self._wakeup_fd, select.EPOLLIN)
        self._thread.start()
        return self._listener.port

    def close(self) -> None:
        """Ends the thread, and all connections."""
        self.call_soon_threadsafe(self._stop)
        if self._thread.is_alive():
            self._thread.join()
        for peer in list(self.peers.values()):
            self.remove(peer)
        if self._listener is not None:
            self._listener.close()
        self._epoll.close()
        os.close(self._wakeup_fd)

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        """Has something done by the loop's thread, unless it has ended."""
        self._callbacks.append(callback)
        self.wake_up()

    def wake_up(self) -> None:
        """Ends the loop's sleep; once for many that ask."""
        if not self._wakeup_pending and not self._stopped:
            self._wakeup_pending = True
            os.eventfd_write(self._wakeup_fd, 1)

    def schedule_flush(self, peer: Peer) -> None:
        """Has what the connection has to send written at the end of the turn."""
        self._to_flush[peer.number] = peer

    def schedule_read(self, peer: Peer) -> None:
        """Has what the connection has not read yet read in the next turn."""
        if peer.closes_at is None:
            self._unread[peer.number] = peer

    def tick_by(self, when: float) -> None:
        """Has the time looked at by then."""
        self._next_tick = min(self._next_tick, when)

    def fail(self, peer: Peer) -> None:
        """Ends a connection once what it has to say is written."""
        if peer.closes_at is None:
            peer.closes_at = time.monotonic() + LINGER_S
            self._unread.pop(peer.number, None)
            self._handler.lost(peer)
            self._flush(peer)

    def remove(self, peer: Peer) -> None:
        """Closes a connection; what is not sent is lost."""
        if self.peers.pop(peer.number, None) is None:
            return
        self._unread.pop(peer.number, None)
        self._to_flush.pop(peer.number, None)
        if peer.closes_at is None:
            self._handler.lost(peer)
        with contextlib.suppress(OSError):
            self._epoll.unregister(peer.socket)
        peer.socket.close()
        peer.unsent.clear()

    def _serve(self) -> None:
        """Reads, has answered, and writes until the end; the path of every request starts here."""
        self.thread_id = threading.get_ident()
        while not self._stopped:
            events = self._wait()
            self._wakeup_pending = False
            with self._flush_scope:
                self._run_callbacks()
                if self._unread:
                    self._read_more()
                for number, event in events:
                    peer = self.peers.get(number)
                    if peer is not None:
                        self._on_event(peer, event)
                    elif number == self._wakeup_fd:
                        os.eventfd_read(self._wakeup_fd)
                    else:
                        self._accept()
                if self._handler.end_turn():
                    self._busy_poll_active = False  # a core that looks for requests is one that the runs do not have
            while self._to_flush:
                self._flush(self._to_flush.popitem()[1])
            now = time.monotonic()
            if now >= self._next_tick:
                self._next_tick = now + (TICK_S if self._handler.tick(now) else IDLE_TICK_S)
                self._check_ages(now)

    def _wait(self) -> list[tuple[int, int]]:
        """Returns what can be done. Waking up takes long beside an answer: where requests come briskly it is awake."""
        poll, began = self._epoll.poll, time.monotonic()
        is_paused = self._listener is not None and self._listener.check_pause()
        if self._unread or self._callbacks:
            return poll(0)
        while self._busy_poll_active:
            events = poll(0)
            if events:
                return events
            self._busy_poll_active = time.monotonic() < began + self.options.busy_poll_s
        until = max(0.0, self._next_tick - began) if self.peers else None
        if is_paused:
            until = ACCEPT_RETRY_S
        events = poll(until)
        self._busy_poll_active = time.monotonic() < began + 2 * self.options.busy_poll_s
        return events

    def _on_event(self, peer: Peer, event: int) -> None:
        """Sees to a connection on which something can be done."""
        if event & select.EPOLLOUT:
            self._flush(peer)
        if event & ~select.EPOLLOUT and peer.number in self.peers and peer.number not in self._unread:
            try:
                data = peer.socket.recv(READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.remove(peer)
            elif peer.closes_at is None:
                self._receive(peer, data)

    def _receive(self, peer: Peer, data: bytes) -> None:
        try:
            if peer.tls is not None:
                data = peer.tls.receive(data)
                self._to_flush[peer.number] = peer
            if self.options.connection_idle_s:
                peer.last_received = time.monotonic()
            self._handler.receive(peer, data)
        except OSError as error:  # ssl.SSLError is one
            self._refuse(peer, str(error))
        except Exception:
            log.exception("a connection failed; it is closed")
            self.remove(peer)

    def _read_more(self) -> None:
        """Has the connections that had more than a turn's read on, one turn each."""
        for peer in list(self._unread.values()):
            del self._unread[peer.number]
            if peer.unsent_bytes >= MAX_UNSENT_BYTES:
                self._unread[peer.number] = peer  # once it takes what it has caused
                continue
            try:
                self._handler.receive(peer, b"")
            except Exception:
                log.exception("a connection failed; it is closed")
                self.remove(peer)

    def _refuse(self, peer: Peer, reason: str) -> None:
        """Ends a connection whose TLS failed; the alert that says why is sent."""
        self._refused_handshakes += 1
        now = time.monotonic()
        if now - self._refusals_logged_at >= REFUSALS_LOG_S:
            self._refusals_logged_at = now
            log.warning("TLS handshake refused", reason=reason, count=self._refused_handshakes)
            self._refused_handshakes = 0
        self.fail(peer)

    def _flush(self, peer: Peer) -> None:
        """Writes what the connection has to say, as far as its socket takes it."""
        try:
            self.sent_bytes += peer.flush()
        except OSError:
            self.remove(peer)
            return
        if peer.closes_at is not None and not peer.unsent:
            peer.end_output()
        if peer.unsent or peer.events != select.EPOLLIN:
            events = peer.wanted_events
            if events != peer.events:
                peer.events = events
                with contextlib.suppress(OSError):
                    self._epoll.modify(peer.socket, events)

    def _accept(self) -> None:
        assert self._listener is not None  # noqa: S101 - it is what has an event
        for connection, address in self._listener.accept():
            tls = None if self._tls is None else TlsChannel(self._tls.current())
            peer = Peer(connection, tls, self._budget)
            peer.address = address
            self.peers[peer.number] = peer
            self._epoll.register(connection, select.EPOLLIN)

    def _check_ages(self, now: float) -> None:
        """Ends the connections that have not begun in time, or have failed, or were to go and did not."""
        for peer in list(self.peers.values()):
            what = due(peer, now, self.options)
            if what is Due.CLOSE:
                self.remove(peer)
            elif what is Due.END:
                self.fail(peer)
            elif what is Due.GOAWAY:
                peer.asked_to_go_at = now
                peer.http2.goaway()
                self._flush(peer)

    def _run_callbacks(self) -> None:
        while self._callbacks:
            try:
                self._callbacks.popleft()()
            except Exception:
                log.exception("a callback of the transport failed")

    def _stop(self) -> None:
        self._stopped = True
