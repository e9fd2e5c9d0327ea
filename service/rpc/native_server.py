"""Our own HTTP/2 (service.http2) on one thread: requests come in bursts, and answers go out from whoever has them.

A call costs a tenth here of what it costs in grpc.aio. Calls of one connection that arrive together are read, run and
answered together, with one system call each way; between them and the model is no other thread, unless the run is long.
"""

import contextlib
import errno
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import structlog

from service.errors import StartError
from service.http2 import frames
from service.http2.incoming import Incoming
from service.http2.messages import Allowance
from service.http2.outgoing import Outgoing
from service.http2.tls import Tls as Channel
from service.rpc import listener_drain
from service.rpc.call import Dispatch, Methods, Transport
from service.rpc.flush_scope import FlushScope
from service.rpc.inflight import InFlightCalls
from service.rpc.router import Router
from service.rpc.status import status_of
from service.rpc.tls_files import TlsFiles

log = structlog.get_logger(__name__)

READ_BYTES = 2**18
"""Most that is read from a connection before it is the next one's turn."""
LARGE_MESSAGES = 8
"""Messages of the largest size that may be on their way at once."""
BACKLOG = 1024
PREFACE_TIMEOUT_S = 30.0
"""How long a client may take to say that it speaks HTTP/2."""
ACCEPT_RETRY_S = 0.1
"""How long nobody is let in when the process has no file descriptors left."""
POLL_S = 0.005
SILENCE_S = 0.05
"""How long no call may come before the connections are closed: what is on its way is told that the server stops."""
CLOSE_S = 1.0
LINGER_S = 0.25
"""How long clients have to close their connections themselves: ending one with bytes unread may cost it answers."""
SILENT_S = 60
"""After which TCP asks whether the client's machine is still there; it is given up after as long again."""
OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENT_S),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_S * 1000),
)
"""Of a connection."""


class NativeTransport(Transport):
    """Serves everything on ``host:port``."""

    def __init__(
        self,
        address: str,
        methods: Methods,
        dispatch: Dispatch,
        *,
        max_message_bytes: int,
        flush_scope: FlushScope | None = None,
        tls: TlsFiles | None = None,
        busy_poll_s: float = 0.0,
        reuse_port: bool = False,
    ) -> None:
        """``dispatch`` is called after each burst of calls; ``flush_scope`` is that of those who answer them.

        ``busy_poll_s``: how long to look for the next burst before sleeping, if the last one came within twice that.
        ``reuse_port``: others may serve the port too.
        """
        self._tls = None if tls is None else tls.context()  # first: it may raise StartError
        self._address = address
        self._dispatch = dispatch
        self._flush_scope = flush_scope or FlushScope()
        self._reuse_port = reuse_port
        self._allowance = Allowance(max_message_bytes, LARGE_MESSAGES * max_message_bytes)
        self._inflight = InFlightCalls(max_message_bytes)
        self._router = Router(methods, self._inflight, self._call_soon_threadsafe)
        self._epoll = select.epoll()
        self._wakeup_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._callbacks: deque[Callable[[], None]] = deque()
        self._connections: dict[int, tuple[socket.socket, Channel | None, Incoming]] = {}
        self._handshaking: dict[int, float] = {}  # connections that have not spoken HTTP/2 yet, and since when
        self._stopped = False
        self._busy_poll_s = busy_poll_s
        self._accept_paused_until = 0.0  # when connections are accepted again; 0: they are
        self._busy_poll_active = False  # whether the last burst came soon after the one before
        self._thread = threading.Thread(target=self._serve, name="native transport", daemon=True)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Listens; raises StartError where the address cannot be had."""
        with ExitStack() as stack:
            stack.callback(os.close, self._wakeup_fd)
            stack.callback(self._epoll.close)
            self._listener = stack.enter_context(_listen(self._address, reuse_port=self._reuse_port))
            self.port = self._listener.getsockname()[1]
            self._epoll.register(self._wakeup_fd, select.EPOLLIN)
            self._epoll.register(self._listener, select.EPOLLIN)
            self._thread.start()
            stack.callback(self._close)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends all calls."""
        self._stack.close()

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Has something done by the thread that receives."""
        self._call_soon_threadsafe(callback)

    def set_ready(self, serving: Mapping[str, bool]) -> None:
        """Tells the health protocol which names are serving."""
        self._router.health.set_ready(serving)

    def hand_over(self, timeout_s: float, abort: Callable[[], bool]) -> bool:
        """Leaves the port to the others that serve it, and has its clients go there."""
        listener_drain.close_listener(self.port)
        ends = time.monotonic() + timeout_s
        while self._connections:
            if time.monotonic() > ends or abort():
                return False
            self._call_soon_threadsafe(self._send_goaway)
            time.sleep(POLL_S)
        return True

    def stop_admitting(self) -> None:
        """Refuses new deferred calls from now on."""
        self._inflight.stop_admitting()

    def drain(self, timeout_s: float) -> bool:
        """Waits until the deferred calls in flight have their answers, on the wire; False if time ran out."""
        ends = time.monotonic() + timeout_s
        if not self._inflight.drain(timeout_s):
            return False
        self._inflight.wait_quiescent(SILENCE_S, CLOSE_S)
        while not all(incoming.outgoing.idle for *_, incoming in list(self._connections.values())):
            if time.monotonic() > ends:
                return False
            time.sleep(POLL_S)
        return True

    def _call_soon_threadsafe(self, chore: Callable[[], None]) -> None:
        """Has something done by the thread that serves, unless it has ended."""
        self._callbacks.append(chore)
        if not self._stopped:
            os.eventfd_write(self._wakeup_fd, 1)

    def _serve(self) -> None:
        """Reads, runs and answers until the end; the path of every hot request starts here."""
        connections = self._connections
        while not self._stopped:
            events = self._wait()
            with self._flush_scope:
                for number, event in events:
                    if number in connections:
                        self._on_event(number, event)
                    elif number == self._wakeup_fd:
                        self._run_callbacks()
                    else:
                        self._accept()
                if self._dispatch():
                    self._busy_poll_active = False  # a core that looks for requests is one that the runs do not have
            if self._handshaking:
                self._close_idle_handshakes()

    def _wait(self) -> list[tuple[int, int]]:
        """What can be done. To be woken takes long beside an answer: where requests come briskly it does not sleep."""
        poll, began = self._epoll.poll, time.monotonic()
        if self._accept_paused_until and began > self._accept_paused_until:
            self._accept_paused_until = 0.0
            with contextlib.suppress(OSError):  # it has been closed meanwhile
                self._epoll.modify(self._listener, select.EPOLLIN)
        while self._busy_poll_active:
            events = poll(0)
            if events:
                return events
            self._busy_poll_active = time.monotonic() < began + self._busy_poll_s
        events = poll(
            ACCEPT_RETRY_S if self._accept_paused_until else PREFACE_TIMEOUT_S / 2 if self._handshaking else None
        )
        self._busy_poll_active = time.monotonic() < began + 2 * self._busy_poll_s
        return events

    def _on_event(self, number: int, event: int) -> None:
        """Sees to a connection on which something can be done."""
        connection, tls, incoming = self._connections[number]
        try:
            if event & select.EPOLLOUT:
                incoming.outgoing.resume()
            if event & ~select.EPOLLOUT:
                data = connection.recv(READ_BYTES)
                if not data:
                    raise ConnectionResetError("the client has closed it")
                if tls is not None:
                    data = tls.open(data)
                    if tls.pending:
                        incoming.outgoing.posted.append(b"")
                        incoming.outgoing.flush()
                incoming.receive(data)
                if self._handshaking and incoming.preface_received:
                    self._handshaking.pop(number, None)
        except BlockingIOError:
            pass
        except frames.Fault as fault:
            log.info("connection ended", reason=str(fault), code=fault.code.name)
            incoming.outgoing.posted.append(frames.go_away(0, fault.code, str(fault)))
            incoming.outgoing.flush()
            self._remove(number)
        except OSError:
            self._remove(number)
        except Exception:
            log.exception("a connection failed; it is closed")
            self._remove(number)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                log.warning("cannot accept a connection", reason=error.strerror)
                self._epoll.modify(self._listener, 0)
                self._accept_paused_until = time.monotonic() + ACCEPT_RETRY_S
            return
        connection.setblocking(False)
        try:
            for level, option, value in OPTIONS:
                connection.setsockopt(level, option, value)
        except OSError:  # it has gone already
            connection.close()
            return
        number = connection.fileno()
        tls = None if self._tls is None else Channel(self._tls)
        incoming = Incoming(
            self._router.find,
            self._allowance,
            lambda streams: Outgoing(connection, self._epoll, streams, tls),
            _status,
            self._flush_scope.schedule_flush,
        )
        self._connections[number] = connection, tls, incoming
        self._handshaking[number] = time.monotonic()
        self._epoll.register(connection, select.EPOLLIN)

    def _remove(self, number: int) -> None:
        """The connection is over."""
        *_, incoming = self._connections.pop(number)
        self._handshaking.pop(number, None)
        incoming.lost()

    def _close_idle_handshakes(self) -> None:
        """Ends connections that have not begun to speak in time."""
        latest = time.monotonic() - PREFACE_TIMEOUT_S
        for number in [number for number, since in self._handshaking.items() if since < latest]:
            self._remove(number)

    def _run_callbacks(self) -> None:
        os.eventfd_read(self._wakeup_fd)
        while self._callbacks:
            try:
                self._callbacks.popleft()()
            except Exception:
                log.exception("a chore of the transport failed")

    def _send_goaway(self) -> None:
        for number, (*_, incoming) in list(self._connections.items()):
            if incoming.preface_received:
                incoming.go_away()
            else:
                self._remove(number)

    def _close(self) -> None:
        self._call_soon_threadsafe(self._send_goaway)
        ends = time.monotonic() + LINGER_S
        while self._connections and time.monotonic() < ends:
            time.sleep(POLL_S)
        self._call_soon_threadsafe(self._stop)
        self._thread.join()
        for number in list(self._connections):
            self._remove(number)

    def _stop(self) -> None:
        self._stopped = True


def _status(error: Exception) -> tuple[int, str]:
    code, message = status_of(error)
    return code.value[0], message


def _listen(address: str, *, reuse_port: bool) -> socket.socket:
    """A listening socket; raises StartError."""
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
    listener.setblocking(False)
    return listener
