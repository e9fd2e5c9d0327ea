"""Connections that do not go on: a server with little patience, in this process, behind a real socket."""

import socket
from collections.abc import Callable, Iterator

import pytest

from service.pb import open_inference_pb2 as pb
from service.rest import connection
from service.rest.server import HttpTransport
from service.rpc import FlushScope, ImmediateMethod, Methods, TransportOptions
from service.runtime.repository import Repository

TIMEOUT_S = 20
LIVE = "/inference.GRPCInferenceService/ServerLive"


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], socket.socket]]:
    """Makes connections to a server that waits for a head, and for a body, for a moment only."""
    monkeypatch.setattr(connection, "HEAD_S", 0.05)
    monkeypatch.setattr(connection, "UPLOAD_S", 0.05)
    live = ImmediateMethod(pb.ServerLiveRequest, lambda _: pb.ServerLiveResponse(live=True))
    methods = Methods({}, {LIVE: live})
    options = TransportOptions(2**20, max_connection_age_s=1e-6)
    sockets: list[socket.socket] = []
    with HttpTransport("127.0.0.1:0", methods, Repository(), options, FlushScope()) as transport:

        def make() -> socket.socket:
            sockets.append(socket.create_connection(("127.0.0.1", transport.port), TIMEOUT_S))
            return sockets[-1]

        yield make
        for made in sockets:
            made.close()


def read_all(peer: socket.socket) -> tuple[bytes, bytes]:
    """Head and content of what comes until the server closes the connection."""
    received = b""
    while piece := peer.recv(65536):
        received += piece
    head, _, content = received.partition(b"\r\n\r\n")
    return head, content


@pytest.mark.parametrize("begun", [b"", b"GET /v2/health/live HTTP/1.1\r\nHost"], ids=["nothing", "half a head"])
def test_heads_must_come(connect: Callable[[], socket.socket], begun: bytes) -> None:
    """A connection that sends no head, or half of one, is told so and ended."""
    peer = connect()
    peer.sendall(begun)
    head, content = read_all(peer)
    assert head.startswith(b"HTTP/1.1 408 ")
    assert content == b'{"error":"The request\'s head did not come within 0.05 seconds."}'


def test_bodies_must_go_on(connect: Callable[[], socket.socket]) -> None:
    """A body that stands still is given up, and its sender told."""
    peer = connect()
    peer.sendall(b"POST /v2/models/m/infer HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
    head, content = read_all(peer)
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"Nothing of the request's body has come for 0.05 seconds. Send it again." in content


def test_old_connections_end(connect: Callable[[], socket.socket]) -> None:
    """A connection beyond its age is closed with its next response, which says so."""
    peer = connect()
    peer.sendall(b"GET /v2/health/live HTTP/1.1\r\n\r\n")
    head, content = read_all(peer)
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nconnection: close" in head
    assert content == b'{"live":true}'
