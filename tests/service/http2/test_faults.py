"""Who breaks the protocol loses the connection, is told why, and harms nobody else."""

import socket
from collections.abc import Callable

import hpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.http2 import frames
from service.http2.requests import STREAM_WINDOW
from service.rpc.call import STREAM_AHEAD
from tests.service.http2.conftest import ECHO, STREAM, Served
from tests.service.http2.peer import TIMEOUT_S, Peer, message, request_fields

BLOCK = hpack.Encoder().encode(request_fields(ECHO))
HEAD = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, BLOCK)
BODY = frames.frame(frames.DATA, frames.END_STREAM, 1, message(b"hello"))
BOMB = hpack.Encoder().encode([("x", "y" * 3000)]) + b"\xbe" * 100
CONTINUED = frames.frame(frames.CONTINUATION, 0, 1, b"\0\1a\1b")
WINDOW = frames.window_update(0, 2**31 - 1)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (frames.frame(frames.DATA, 0, 0, b"x"), frames.Code.PROTOCOL_ERROR),
        (frames.frame(frames.DATA, 0, 5, b"x"), frames.Code.PROTOCOL_ERROR),
        (frames.frame(frames.HEADERS, frames.END_HEADERS, 2, BLOCK), frames.Code.PROTOCOL_ERROR),
        (frames.frame(frames.HEADERS, frames.END_HEADERS, 0, BLOCK), frames.Code.PROTOCOL_ERROR),
        (frames.frame(frames.HEADERS, frames.PADDED, 1, b"\xff"), frames.Code.PROTOCOL_ERROR),
        (frames.frame(frames.HEADERS, 0, 1, BLOCK[:5]) + frames.frame(frames.PING, 0, 0, bytes(8)), 1),
        (frames.frame(frames.HEADERS, 0, 1, BLOCK[:5]) + frames.frame(frames.DATA, 1, 1, bytes(8)), 1),
        (frames.frame(frames.HEADERS, 0, 1, BLOCK[:5]) + frames.frame(frames.CONTINUATION, 4, 3), 1),
        (frames.frame(frames.HEADERS, 0, 1, BLOCK[:5]) + CONTINUED * 100, frames.Code.ENHANCE_YOUR_CALM),
        (frames.frame(frames.CONTINUATION, 4, 1), frames.Code.PROTOCOL_ERROR),
        (frames.frame(frames.HEADERS, frames.END_HEADERS, 1, BOMB), frames.Code.ENHANCE_YOUR_CALM),
        (frames.frame(frames.HEADERS, frames.END_HEADERS, 1, b"\xff\xff"), frames.Code.COMPRESSION_ERROR),
        (HEAD + HEAD, frames.Code.PROTOCOL_ERROR),
        (frames.window_update(0, 0), frames.Code.PROTOCOL_ERROR),
        (WINDOW, frames.Code.FLOW_CONTROL_ERROR),
        (HEAD + frames.window_update(1, 2**31 - 1), frames.Code.FLOW_CONTROL_ERROR),
        (
            HEAD + frames.window_update(1, 2**31 - 1 - 65_535) + frames.settings({frames.INITIAL_WINDOW_SIZE: 65_536}),
            frames.Code.FLOW_CONTROL_ERROR,
        ),
        (frames.frame(frames.WINDOW_UPDATE, 0, 0, b"123"), frames.Code.FRAME_SIZE_ERROR),
        (frames.frame(frames.RST_STREAM, 0, 1, bytes(4)), frames.Code.PROTOCOL_ERROR),
        (frames.frame(frames.RST_STREAM, 0, 1, bytes(5)), frames.Code.FRAME_SIZE_ERROR),
        (frames.frame(frames.SETTINGS, 0, 0, bytes(5)), frames.Code.FRAME_SIZE_ERROR),
        (frames.frame(frames.SETTINGS, frames.ACK, 0, bytes(6)), frames.Code.FRAME_SIZE_ERROR),
        (frames.settings({frames.INITIAL_WINDOW_SIZE: 2**31}), frames.Code.FLOW_CONTROL_ERROR),
        (frames.settings({frames.MAX_FRAME_SIZE: 100}), frames.Code.PROTOCOL_ERROR),
        (frames.frame(frames.PING, 0, 0, b"short"), frames.Code.FRAME_SIZE_ERROR),
        (frames.frame(frames.PUSH_PROMISE, 0, 1, bytes(4)), frames.Code.PROTOCOL_ERROR),
        (frames.frame(frames.PRIORITY, 0, 1, bytes(4)), frames.Code.FRAME_SIZE_ERROR),
        (frames.frame(frames.GOAWAY, 0, 1, bytes(8)), frames.Code.PROTOCOL_ERROR),
        (frames.frame(frames.DATA, 0, 1, bytes(16_385)), frames.Code.FRAME_SIZE_ERROR),
        (b"\xff\xff\xff\0\0\0\0\0\1", frames.Code.FRAME_SIZE_ERROR),
    ],
)
def test_the_connection_ends_with_a_reason_and_the_others_go_on(
    connect: Callable[..., Peer], content: bytes, code: int
) -> None:
    peer, other = connect(), connect()
    other.call(ECHO, b"before")
    peer.socket.sendall(content)
    said, reason = peer.goodbye()
    assert said == code
    assert reason
    assert other.call(ECHO, b"after").messages == [b"after"]


def test_what_is_not_http2_is_told_so(connect: Callable[..., Peer]) -> None:
    other = connect()
    with socket.create_connection(other.socket.getpeername(), TIMEOUT_S) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        said = b""
        while part := plain.recv(4096):
            said += part
    assert b"this is not HTTP/2" in said
    assert other.call(ECHO, b"after").messages == [b"after"]


def test_data_behind_the_end_of_a_request_ends_that_stream(peer: Peer) -> None:
    stream = peer.begin("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
    end = frames.frame(frames.DATA, frames.END_STREAM, stream)
    peer.socket.sendall(end + frames.frame(frames.DATA, 0, stream, b"more"))
    peer.wait(stream)
    assert peer.answers[stream].reset == frames.Code.STREAM_CLOSED
    assert peer.call(ECHO, b"next").messages == [b"next"]


def test_more_data_than_was_allowed_ends_that_stream(served: Served, peer: Peer) -> None:
    """A stream with so many requests in flight is allowed no more, and this one sends all the same."""
    stream = peer.begin(STREAM)
    content = frames.frame(frames.DATA, 0, stream, message(bytes(10_000)))
    peer.socket.sendall(content * (STREAM_WINDOW // 10_000 + 60))
    peer.wait(stream)
    assert peer.answers[stream].reset == frames.Code.FLOW_CONTROL_ERROR
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
def test_nothing_that_comes_harms_the_next_connection(connect: Callable[..., Peer], parts: list[bytes]) -> None:
    bad, good = connect(), connect()
    bad.socket.sendall(b"".join(parts))
    assert good.call(ECHO, b"still here").messages == [b"still here"]
    bad.socket.close()
    good.socket.close()
