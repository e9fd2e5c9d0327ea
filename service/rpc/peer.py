"""A client's connection: its socket, its TLS, its HTTP/2, and what its socket did not take yet."""

import contextlib
import select
import socket
import time
from collections import deque
from typing import Any

from ..http2.connection import Connection
from ..http2.deframer import ReceiveBudget
from .tls_channel import TlsChannel

MAX_UNSENT_BYTES = 2**20
"""Unsent, beyond which nothing more is read from this peer: it causes answers and does not take them."""


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
        """What epoll tells of it."""
        self.since = self.last_received = time.monotonic()
        self.closes_at: float | None = None
        """Set once the connection has failed: nothing but its end is waited for."""
        self.asked_to_go_at: float | None = None
        """Since when the client has been asked to connect anew."""

    @property
    def name(self) -> str:
        """The client's address, as gRPC writes it."""
        host, port, *more = self.address
        return f"ipv6:[{host}]:{port}" if more else f"ipv4:{host}:{port}"

    def flush(self) -> int:
        """Writes what the connection has to say, behind what the socket did not take before.

        Returns how many bytes the socket took; raises OSError where the connection is lost.
        """
        data = self.http2.data_to_send()
        if self.tls is not None:
            data = self.tls.send(data)
        taken = 0
        if not self.unsent and data:  # the usual case
            taken = self._send(data)
            if taken == len(data):
                return taken
            data = data[taken:]
        if data:
            self.unsent.append(memoryview(data))
            self.unsent_bytes += len(data)
        return taken + self._flush_unsent()

    @property
    def wanted_events(self) -> int:
        """What epoll should tell of it."""
        readable = select.EPOLLIN if self.unsent_bytes < MAX_UNSENT_BYTES else 0
        return readable | (select.EPOLLOUT if self.unsent else 0)

    def end_output(self) -> None:
        """Says that nothing more will be sent."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def _send(self, data: bytes | memoryview) -> int:
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0

    def _flush_unsent(self) -> int:
        unsent, taken = self.unsent, 0
        while unsent:
            sent = self._send(unsent[0])
            taken += sent
            self.unsent_bytes -= sent
            if sent < len(unsent[0]):
                unsent[0] = unsent[0][sent:]
                break
            unsent.popleft()
        return taken
