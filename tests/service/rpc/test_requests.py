"""Requests in all forms that HTTP/2 allows are answered, as a strict client of another make sees it."""

import gzip
import zlib
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.service.rpc.conftest import COLD, ECHO, LATER, MAX_MESSAGE_BYTES, Served
from tests.service.rpc.peer import Peer, message, request_fields

TIMEOUT_S = 20


def test_call_is_answered(peer: Peer) -> None:
    """A call is answered by its fields, its message and its trailers."""
    answer = peer.call(ECHO, b"hello")
    assert answer.messages == [b"hello"]
    assert answer.fields == {":status": "200", "content-type": "application/grpc", "grpc-status": "0"}


def test_each_call_has_its_answer(peer: Peer) -> None:
    """Hundreds of calls on one connection get each their own answer."""
    streams = [peer.ask(ECHO, str(number).encode() * (number % 7)) for number in range(500)]
    answers = peer.wait(*streams)
    assert [answer.messages for answer in answers] == [[str(number).encode() * (number % 7)] for number in range(500)]


def test_any_thread_may_answer(served: Served, peer: Peer) -> None:
    """Answers may come from any thread, in any order."""
    streams = [peer.ask(LATER, bytes([number])) for number in range(9)]
    calls = [served.later.get(timeout=TIMEOUT_S) for _ in streams]
    for call in reversed(calls):  # outside of any flush_scope: each is sent at once
        call.respond(call.payload * 2)
    with served.flush_scope:
        for answer, number in zip(peer.wait(*streams), range(9), strict=True):
            assert answer.messages == [bytes([number, number])]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_bytes_come_in_any_pieces(connect: Callable[..., Peer], data: st.DataObject) -> None:
    """Frames, header blocks, prefixes and messages are cut wherever TCP likes."""
    peer = connect()
    payloads = data.draw(st.lists(st.binary(max_size=40), min_size=1, max_size=4))
    streams = []
    for payload in payloads:
        stream = peer.h2.get_next_available_stream_id()
        peer.h2.send_headers(stream, request_fields(ECHO))
        peer.h2.send_data(stream, message(payload), end_stream=True)
        streams.append(stream)
    content = peer.h2.data_to_send()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=12)))
    for start, end in zip([0, *cuts], [*cuts, len(content)], strict=True):
        peer.socket.sendall(content[start:end])
    assert [answer.messages for answer in peer.wait(*streams)] == [[payload] for payload in payloads]
    peer.socket.close()


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_380, 100_000, 1_200_000])
def test_messages_of_any_size(peer: Peer, size: int) -> None:
    """Messages of any size come and go."""
    payload = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    assert peer.call(ECHO, payload).messages == [payload]


def test_streams_interleave_their_data(peer: Peer) -> None:
    """Streams may interleave their data."""
    streams = [peer.begin(ECHO) for _ in range(3)]
    contents = [message(bytes([number]) * 30_000) for number in range(3)]
    for at in range(0, len(contents[0]), 5_000):
        for stream, content in zip(streams, contents, strict=True):
            peer.send(stream, content[at : at + 5_000], end=at + 5_000 >= len(content))
    assert [answer.messages for answer in peer.wait(*streams)] == [[bytes([number]) * 30_000] for number in range(3)]


def test_ping_and_settings_are_acknowledged(peer: Peer) -> None:
    """A ping is answered, and SETTINGS are acknowledged."""
    peer.h2.ping(b"12345678")
    peer.flush()
    names: set[str] = set()
    while not {"PingAckReceived", "SettingsAcknowledged"} <= names:
        names |= {type(event).__name__ for event in peer.receive()}


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_messages_are_read(peer: Peer, encoding: str, pack: Callable[[bytes], bytes]) -> None:
    """Messages packed by gzip and deflate are read."""
    stream = peer.begin(ECHO, ("grpc-encoding", encoding))
    peer.send(stream, message(pack(b"a" * 10_000), flag=1), end=True)
    (answer,) = peer.wait(stream)
    assert answer.messages == [b"a" * 10_000]


@pytest.mark.parametrize(
    ("path", "data", "more", "status", "words"),
    [
        ("/test.Test/Nothing", message(b""), (), 12, "Method not found!"),
        (ECHO, message(b"x"), (("grpc-timeout", "soon"),), 2, "no grpc-timeout"),
        (ECHO, b"", (), 3, "the request has no message"),
        (ECHO, b"\0\0", (), 3, "in the middle of a message"),
        (ECHO, message(b"a") + message(b"b"), (), 3, "this is the second"),
        (ECHO, b"\x07" + message(b"a")[1:], (), 3, "not with 7"),
        (ECHO, message(b"x", flag=1), (), 12, "compressed by 'identity'"),
        (ECHO, message(b"x", flag=1), (("grpc-encoding", "snappy"),), 12, "compressed by 'snappy'"),
        (ECHO, message(b"no gzip at all", flag=1), (("grpc-encoding", "gzip"),), 3, "not compressed by gzip"),
        (
            ECHO,
            message(gzip.compress(b"abc", mtime=0)[:-9], flag=1),
            (("grpc-encoding", "gzip"),),
            3,
            "in the middle of its gzip",
        ),
        (
            ECHO,
            message(gzip.compress(bytes(MAX_MESSAGE_BYTES + 1), mtime=0), flag=1),
            (("grpc-encoding", "gzip"),),
            8,
            "larger",
        ),
        (COLD, message(b"\xff\xff"), (), 3, "the message is no inference.ServerLiveRequest"),
    ],
)
def test_wrong_request_is_told_why(
    peer: Peer, path: str, data: bytes, more: tuple[tuple[str, str], ...], status: int, words: str
) -> None:
    """A request that is wrong is told why, and the next is served."""
    stream = peer.begin(path, *more)
    peer.send(stream, data, end=True)
    (answer,) = peer.wait(stream)
    assert answer.status == status
    assert words in answer.fields["grpc-message"]
    assert peer.call(COLD, b"").status == 0


def test_http_gets_a_status(peer: Peer) -> None:
    """What is not gRPC gets a status of HTTP."""
    for fields, status in (
        ([(":method", "GET"), *request_fields(ECHO)[1:]], "405"),
        ([*request_fields(ECHO)[:4], ("content-type", "text/html")], "415"),
    ):
        stream = peer.h2.get_next_available_stream_id()
        peer.h2.send_headers(stream, fields, end_stream=True)
        peer.flush()
        (answer,) = peer.wait(stream)
        assert answer.fields[":status"] == status
        assert answer.fields["grpc-message"]


def test_length_alone_refuses_a_message(peer: Peer) -> None:
    """The rest never comes."""
    stream = peer.begin(ECHO)
    peer.send(stream, b"\0" + (MAX_MESSAGE_BYTES + 1).to_bytes(4, "big"))
    (answer,) = peer.wait(stream)
    assert answer.status == 8
    assert f"larger than max ({MAX_MESSAGE_BYTES + 1} vs. {MAX_MESSAGE_BYTES} bytes)" in answer.fields["grpc-message"]
    assert peer.call(ECHO, b"next").messages == [b"next"]


def test_received_bytes_are_bounded(peer: Peer) -> None:
    """A connection may hold two messages of the largest size; announcing many costs nobody anything."""
    half = b"\0" + MAX_MESSAGE_BYTES.to_bytes(4, "big") + bytes(MAX_MESSAGE_BYTES - 1)
    announced = [peer.begin(ECHO) for _ in range(9)]
    for stream in announced:
        peer.send(stream, half[:5])
    begun = [peer.begin(ECHO) for _ in range(2)]
    for stream in begun:
        peer.send(stream, half)
    refused = peer.begin(ECHO)
    peer.send(refused, message(bytes(100)))
    (answer,) = peer.wait(refused)
    assert (answer.status, "too many unfinished messages" in answer.fields["grpc-message"]) == (8, True)
    peer.h2.reset_stream(begun[0])
    peer.flush()
    assert peer.call(ECHO, bytes(MAX_MESSAGE_BYTES)).messages == [bytes(MAX_MESSAGE_BYTES)]
