"""Who breaks the protocol loses the connection, is told why, and harms nobody else."""

import socket
from collections.abc import Callable

import hpack
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.http2 import frames
from service.http2.stream import STREAM_WINDOW
from service.rpc.call import STREAM_AHEAD
from tests.service.rpc.conftest import ECHO, STREAM, Served
from tests.service.rpc.peer import TIMEOUT_S, Peer, message, request_fields

BLOCK = hpack.Encoder().encode(request_fields(ECHO))
HEAD = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, BLOCK)
BODY = frames.frame(frames.DATA, frames.END_STREAM, 1, message(b"hello"))


def test_http1_is_told_so(connect: Callable[..., Peer]) -> None:
    """A client that does not speak HTTP/2 is told so."""
    other = connect()
    with socket.create_connection(other.socket.getpeername(), TIMEOUT_S) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        said = b""
        while part := plain.recv(4096):
            said += part
    assert b"this is not HTTP/2" in said
    assert other.call(ECHO, b"after").messages == [b"after"]


def test_data_behind_the_end(peer: Peer) -> None:
    """Data behind the end of a request end that stream alone."""
    stream = peer.begin("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
    end = frames.frame(frames.DATA, frames.END_STREAM, stream)
    peer.socket.sendall(end + frames.frame(frames.DATA, 0, stream, b"more"))
    peer.wait(stream)
    assert peer.answers[stream].reset == frames.ErrorCode.STREAM_CLOSED
    assert peer.call(ECHO, b"next").messages == [b"next"]


def test_excess_data_ends_a_stream(served: Served, peer: Peer) -> None:
    """A stream with so many requests in flight is allowed no more, and this one sends all the same."""
    stream = peer.begin(STREAM)
    content = frames.frame(frames.DATA, 0, stream, message(bytes(10_000)))
    peer.socket.sendall(content * (STREAM_WINDOW // 10_000 + 200))
    peer.wait(stream)
    assert peer.answers[stream].reset == frames.ErrorCode.FLOW_CONTROL_ERROR
    calls = {served.later.get(timeout=TIMEOUT_S) for _ in range(STREAM_AHEAD)}
    assert {served.cancelled.get(timeout=TIMEOUT_S) for _ in calls} == calls
    assert peer.call(ECHO, b"next").messages == [b"next"]


FRAMES = st.builds(
    frames.frame,
    st.integers(0, 12),
    st.integers(0, 255),
    st.sampled_from([0, 1, 1, 3, 5, 2**31]),
    st.sampled_from([b"", BLOCK, message(b"abc"), bytes(4), bytes(8), b"\0\0\0\1"]) | st.binary(max_size=40),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(FRAMES | st.sampled_from([HEAD, BODY]) | st.binary(max_size=30), max_size=12))
def test_garbage_harms_no_other_connection(connect: Callable[..., Peer], parts: list[bytes]) -> None:
    """Whatever comes on a connection, the next is served."""
    bad, good = connect(), connect()
    bad.socket.sendall(b"".join(parts))
    assert good.call(ECHO, b"still here").messages == [b"still here"]
    bad.socket.close()
    good.socket.close()
