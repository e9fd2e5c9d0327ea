"""The listening socket of the native transport, and the connections that it accepts."""

import contextlib
import errno
import select
import socket
import time
from collections.abc import Iterator
from typing import Any

import structlog

from ..errors import StartError

log = structlog.get_logger(__name__)

BACKLOG = 1024
MAX_ACCEPTS = 64
"""Connections accepted in one turn."""
ACCEPT_RETRY_S = 0.1
"""How long no connection is accepted when the process has no file descriptors left."""
SILENT_S = 60
"""After which TCP asks whether the client's machine is still there; it is given up after as long again."""
OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENT_S),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_S * 1000),
)
"""Of a connection."""


class Listener:
    """Listens on an address."""

    def __init__(self, address: str, epoll: select.epoll, *, reuse_port: bool) -> None:
        """Listens on ``host:port``; raises StartError."""
        self._socket = listen(address, reuse_port=reuse_port)
        self._epoll = epoll
        self._paused_until = 0.0  # when connections are accepted again; 0: they are
        epoll.register(self._socket, select.EPOLLIN)

    @property
    def port(self) -> int:
        """The TCP port that it listens on."""
        port: int = self._socket.getsockname()[1]
        return port

    def check_pause(self) -> bool:
        """Ends the pause when it is over; True: there is one still, and this is to be called after ACCEPT_RETRY_S."""
        if self._paused_until and time.monotonic() > self._paused_until:
            self._paused_until = 0.0
            self._watch(select.EPOLLIN)
        return self._paused_until > 0.0

    def accept(self) -> Iterator[tuple[socket.socket, tuple[Any, ...]]]:
        """Yields the connections that wait, with their addresses, as many as are a turn's."""
        for _ in range(MAX_ACCEPTS):
            try:
                connection, address = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    log.warning("cannot accept a connection", reason=error.strerror)
                    self._watch(0)
                    self._paused_until = time.monotonic() + ACCEPT_RETRY_S
                return
            connection.settimeout(0)
            try:
                for level, option, value in OPTIONS:
                    connection.setsockopt(level, option, value)
            except OSError:  # it has gone already
                connection.close()
                continue
            yield connection, address

    def close(self) -> None:
        """Listens no longer."""
        self._socket.close()

    def _watch(self, events: int) -> None:
        with contextlib.suppress(OSError, ValueError):  # it has been closed meanwhile
            self._epoll.modify(self._socket, events)


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
