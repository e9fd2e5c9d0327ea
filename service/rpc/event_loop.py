"""The sockets of the native transport, in one thread: epoll, accepting, TLS, timeouts, and a turn for everyone.

Knows bytes, connections and time; what the bytes mean is `service.http2`'s, and what is done about it the handler's.
"""

import contextlib
import errno
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import structlog

from ..errors import StartError
from ..http2.connection import Connection
from ..http2.deframer import ReceiveBudget
from .call import TransportOptions
from .flush_scope import FlushScope
from .tls_channel import TlsChannel
from .tls_files import TlsContexts

log = structlog.get_logger(__name__)

READ_BYTES = 2**18
"""Most that is read from a connection before it is the next one's turn."""
MAX_UNSENT_BYTES = 2**20
"""Unsent, beyond which nothing more is read from this peer: it causes answers and does not take them."""
BACKLOG = 1024
MAX_ACCEPTS = 64
"""Connections accepted in one turn."""
PREFACE_TIMEOUT_S = 30.0
"""How long a client may take to say that it speaks HTTP/2."""
ACCEPT_RETRY_S = 0.1
"""How long no connection is accepted when the process has no file descriptors left."""
TICK_S = 0.025
"""How late a deadline may be enforced."""
IDLE_TICK_S = 1.0
LINGER_S = 1.0
"""How long a connection that ended in an error is read from, so that the client gets the GOAWAY and not a reset."""
REFUSALS_LOG_S = 1.0
"""Handshakes refused within so long are logged in one line."""
SILENT_S = 60
"""After which TCP asks whether the client's machine is still there; it is given up after as long again."""
OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENT_S),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_S * 1000),
)
"""Of a connection."""


class Peer:
    """A client's connection."""

    def __init__(self, connection: socket.socket, tls: TlsChannel | None, budget: ReceiveBudget) -> None:
        self.socket = connection
        self.number = connection.fileno()
        self.address: tuple[Any, ...] = ()
        """The client's, as its socket has it."""
        self.tls = tls
        self.http2 = Connection(budget)
        self.unsent: deque[memoryview] = deque()
        self.unsent_bytes = 0
        self.events = select.EPOLLIN
        self.since = self.last_received = time.monotonic()
        self.closes_at: float | None = None
        """Set once the connection has failed: nothing but its end is waited for."""
        self.asked_to_go_at: float | None = None
        """For the handler: since when the client has been asked to connect anew."""

    @property
    def name(self) -> str:
        """The client's address, as gRPC writes it."""
        host, port, *more = self.address
        return f"ipv6:[{host}]:{port}" if more else f"ipv4:{host}:{port}"


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
        self._listener: socket.socket | None = None
        self._unread: dict[int, Peer] = {}  # those that have more to read than a turn's
        self._to_flush: dict[int, Peer] = {}
        self._stopped = False
        self._next_tick = 0.0
        self._accept_paused_until = 0.0  # when connections are accepted again; 0: they are
        self._busy_poll_active = False  # the last burst came soon after the one before
        self._refused_handshakes = 0
        self._refusals_logged_at = 0.0
        self._thread = threading.Thread(target=self._serve, name="native transport", daemon=True)
        self.thread_id = 0

    def listen(self, address: str) -> int:
        """Listens on ``host:port`` and begins to serve; returns the port. Raises StartError."""
        self._listener = listen(address, reuse_port=self.options.reuse_port)
        self._epoll.register(self._wakeup_fd, select.EPOLLIN)
        self._epoll.register(self._listener, select.EPOLLIN)
        self._thread.start()
        port: int = self._listener.getsockname()[1]
        return port

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
            if not peer.unsent:
                with contextlib.suppress(OSError):
                    peer.socket.shutdown(socket.SHUT_WR)

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
        if self._accept_paused_until and began > self._accept_paused_until:
            self._accept_paused_until = 0.0
            self._watch_listener(select.EPOLLIN)
        if self._unread or self._callbacks:
            return poll(0)
        while self._busy_poll_active:
            events = poll(0)
            if events:
                return events
            self._busy_poll_active = time.monotonic() < began + self.options.busy_poll_s
        until = max(0.0, self._next_tick - began) if self.peers else None
        if self._accept_paused_until:
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
        """Writes what the connection has to say, behind what the socket did not take before."""
        data = peer.http2.data_to_send()
        if peer.tls is not None:
            data = peer.tls.send(data)
        unsent = peer.unsent
        if not unsent and data:  # the usual case
            try:
                sent = peer.socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.remove(peer)
                return
            self.sent_bytes += sent
            if sent == len(data):
                return
            data = data[sent:]
        if data:
            unsent.append(memoryview(data))
            peer.unsent_bytes += len(data)
        self._write(peer)

    def _write(self, peer: Peer) -> None:
        unsent = peer.unsent
        while unsent:
            try:
                sent = peer.socket.send(unsent[0])
            except BlockingIOError:
                break
            except OSError:
                self.remove(peer)
                return
            self.sent_bytes += sent
            peer.unsent_bytes -= sent
            if sent < len(unsent[0]):
                unsent[0] = unsent[0][sent:]
                break
            unsent.popleft()
        if peer.closes_at is not None and not unsent:
            with contextlib.suppress(OSError):
                peer.socket.shutdown(socket.SHUT_WR)
        events = select.EPOLLIN if peer.unsent_bytes < MAX_UNSENT_BYTES else 0
        events |= select.EPOLLOUT if unsent else 0
        if events != peer.events:
            peer.events = events
            with contextlib.suppress(OSError):
                self._epoll.modify(peer.socket, events)

    def _accept(self) -> None:
        assert self._listener is not None  # noqa: S101 - it is what has an event
        for _ in range(MAX_ACCEPTS):
            try:
                connection, address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    log.warning("cannot accept a connection", reason=error.strerror)
                    self._watch_listener(0)
                    self._accept_paused_until = time.monotonic() + ACCEPT_RETRY_S
                return
            connection.settimeout(0)
            try:
                for level, option, value in OPTIONS:
                    connection.setsockopt(level, option, value)
            except OSError:  # it has gone already
                connection.close()
                continue
            tls = None if self._tls is None else TlsChannel(self._tls.current())
            peer = Peer(connection, tls, self._budget)
            peer.address = address
            self.peers[peer.number] = peer
            self._epoll.register(connection, select.EPOLLIN)

    def _watch_listener(self, events: int) -> None:
        if self._listener is not None:
            with contextlib.suppress(OSError, ValueError):  # it has been closed meanwhile
                self._epoll.modify(self._listener, events)

    def _check_ages(self, now: float) -> None:
        """Ends the connections that have not begun in time, or have failed, or were to go and did not."""
        options = self.options
        for peer in list(self.peers.values()):
            if peer.closes_at is not None:
                if now > peer.closes_at:
                    self.remove(peer)
            elif not peer.http2.preface_received:
                if now - peer.since > PREFACE_TIMEOUT_S:
                    self.remove(peer)
            elif options.connection_idle_s or options.max_connection_age_s:
                self._check_age(peer, now)

    def _check_age(self, peer: Peer, now: float) -> None:
        options = self.options
        streams = peer.http2.streams
        if peer.asked_to_go_at is not None:
            if not streams or (
                options.max_connection_age_s and now - peer.asked_to_go_at > options.max_connection_age_grace_s
            ):
                self.fail(peer)
            return
        # A tenth is added by chance, so that clients do not come back all at once.
        age = options.max_connection_age_s * (1 + peer.number * 7919 % 100 / 1000)
        is_idle = options.connection_idle_s and not streams and now - peer.last_received > options.connection_idle_s
        if is_idle or (options.max_connection_age_s and now - peer.since > age):
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


def listen(address: str, *, reuse_port: bool) -> socket.socket:
    """Returns a listening socket; raises StartError."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, place = found[0]
        listener = socket.create_server(
            place[:2],
            family=family,
            backlog=BACKLOG,
            reuse_port=reuse_port,
            dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        raise StartError(f"cannot listen on {address}: {error}") from error
    listener.settimeout(0)
    return listener
