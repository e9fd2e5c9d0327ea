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
from service.rpc.status import status_of
from service.rpc import sockets
from service.rpc.call import Methods, Settle, Traffic, Transport
from service.rpc.flush_scope import Gathering
from service.rpc.router import Desk
from service.rpc.tls_files import Tls

log = structlog.get_logger(__name__)

READ_BYTES = 2**18
"""Most that is read from a connection before it is the next one's turn."""
LARGE_MESSAGES = 8
"""Messages of the largest size that may be on their way at once."""
BACKLOG = 1024
GREETING_S = 30.0
"""How long a client may take to say that it speaks HTTP/2."""
BREATH_S = 0.1
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
        settle: Settle,
        *,
        max_message_bytes: int,
        gathering: Gathering | None = None,
        tls: Tls | None = None,
        busy_poll_s: float = 0.0,
        reuse_port: bool = False,
    ) -> None:
        """``settle`` is called after each burst of calls; ``gathering`` is that of those who answer them.

        ``busy_poll_s``: how long to look for the next burst before sleeping, if the last one came within twice that.
        ``reuse_port``: others may serve the port too.
        """
        self._tls = None if tls is None else tls.context()  # first: it may raise StartError
        self._address = address
        self._settle = settle
        self._gathering = gathering or Gathering()
        self._reuse_port = reuse_port
        self._allowance = Allowance(max_message_bytes, LARGE_MESSAGES * max_message_bytes)
        self._traffic = Traffic(max_message_bytes)
        self._desk = Desk(methods, self._traffic, self._soon)
        self._epoll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._chores: deque[Callable[[], None]] = deque()
        self._connections: dict[int, tuple[socket.socket, Channel | None, Incoming]] = {}
        self._strangers: dict[int, float] = {}  # connections that have not spoken HTTP/2 yet, and since when
        self._stopped = False
        self._busy_poll_s = busy_poll_s
        self._deaf_until = 0.0  # when connections are accepted again; 0: they are
        self._brisk = False  # whether the last burst came soon after the one before
        self._thread = threading.Thread(target=self._serve, name="native transport", daemon=True)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Listens; raises StartError where the address cannot be had."""
        with ExitStack() as stack:
            stack.callback(os.close, self._bell)
            stack.callback(self._epoll.close)
            self._listener = stack.enter_context(_listen(self._address, reuse_port=self._reuse_port))
            self.port = self._listener.getsockname()[1]
            self._epoll.register(self._bell, select.EPOLLIN)
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

    def set_ready(self, serving: Mapping[str, bool]) -> None:
        """Tells the health protocol which names are serving."""
        self._desk.health.set_ready(serving)

    def retire(self, timeout_s: float, hurried: Callable[[], bool]) -> bool:
        """Leaves the port to the others that serve it, and has its clients go there."""
        sockets.stop_accepting(self.port)
        ends = time.monotonic() + timeout_s
        while self._connections:
            if time.monotonic() > ends or hurried():
                return False
            self._soon(self._send_away)
            time.sleep(POLL_S)
        return True

    def refuse(self) -> None:
        """Refuses new hot calls from now on."""
        self._traffic.refuse()

    def drain(self, timeout_s: float) -> bool:
        """Waits until the hot calls in flight have their answers, on the wire; False if time ran out."""
        ends = time.monotonic() + timeout_s
        if not self._traffic.drain(timeout_s):
            return False
        self._traffic.fall_silent(SILENCE_S, CLOSE_S)
        while not all(incoming.outgoing.idle for *_, incoming in list(self._connections.values())):
            if time.monotonic() > ends:
                return False
            time.sleep(POLL_S)
        return True

    def _soon(self, chore: Callable[[], None]) -> None:
        """Has something done by the thread that serves, unless it has ended."""
        self._chores.append(chore)
        if not self._stopped:
            os.eventfd_write(self._bell, 1)

    def _serve(self) -> None:
        """Reads, runs and answers until the end; the path of every hot request starts here."""
        connections = self._connections
        while not self._stopped:
            events = self._wait()
            with self._gathering:
                for number, event in events:
                    if number in connections:
                        self._attend(number, event)
                    elif number == self._bell:
                        self._do_chores()
                    else:
                        self._accept()
                if self._settle():
                    self._brisk = False  # a core that looks for requests is one that the runs do not have
            if self._strangers:
                self._show_out()

    def _wait(self) -> list[tuple[int, int]]:
        """What can be done. To be woken takes long beside an answer: where requests come briskly it does not sleep."""
        poll, began = self._epoll.poll, time.monotonic()
        if self._deaf_until and began > self._deaf_until:
            self._deaf_until = 0.0
            with contextlib.suppress(OSError):  # it has been closed meanwhile
                self._epoll.modify(self._listener, select.EPOLLIN)
        while self._brisk:
            events = poll(0)
            if events:
                return events
            self._brisk = time.monotonic() < began + self._busy_poll_s
        events = poll(BREATH_S if self._deaf_until else GREETING_S / 2 if self._strangers else None)
        self._brisk = time.monotonic() < began + 2 * self._busy_poll_s
        return events

    def _attend(self, number: int, event: int) -> None:
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
                if self._strangers and incoming.greeted:
                    self._strangers.pop(number, None)
        except BlockingIOError:
            pass
        except frames.Fault as fault:
            log.info("connection ended", reason=str(fault), code=fault.code.name)
            incoming.outgoing.posted.append(frames.go_away(0, fault.code, str(fault)))
            incoming.outgoing.flush()
            self._forget(number)
        except OSError:
            self._forget(number)
        except Exception:
            log.exception("a connection failed; it is closed")
            self._forget(number)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                log.warning("cannot accept a connection", reason=error.strerror)
                self._epoll.modify(self._listener, 0)
                self._deaf_until = time.monotonic() + BREATH_S
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
            self._desk.find,
            self._allowance,
            lambda streams: Outgoing(connection, self._epoll, streams, tls),
            _status,
            self._gathering.touch,
        )
        self._connections[number] = connection, tls, incoming
        self._strangers[number] = time.monotonic()
        self._epoll.register(connection, select.EPOLLIN)

    def _forget(self, number: int) -> None:
        """The connection is over."""
        *_, incoming = self._connections.pop(number)
        self._strangers.pop(number, None)
        incoming.lost()

    def _show_out(self) -> None:
        """Ends connections that have not begun to speak in time."""
        latest = time.monotonic() - GREETING_S
        for number in [number for number, since in self._strangers.items() if since < latest]:
            self._forget(number)

    def _do_chores(self) -> None:
        os.eventfd_read(self._bell)
        while self._chores:
            try:
                self._chores.popleft()()
            except Exception:
                log.exception("a chore of the transport failed")

    def _send_away(self) -> None:
        for number, (*_, incoming) in list(self._connections.items()):
            if incoming.greeted:
                incoming.go_away()
            else:
                self._forget(number)

    def _close(self) -> None:
        self._soon(self._send_away)
        ends = time.monotonic() + LINGER_S
        while self._connections and time.monotonic() < ends:
            time.sleep(POLL_S)
        self._soon(self._stop)
        self._thread.join()
        for number in list(self._connections):
            self._forget(number)

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
