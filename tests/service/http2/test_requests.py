"""Requests in all forms that HTTP/2 allows are answered, as a strict client of another make sees it."""

import gzip
import zlib
from collections.abc import Callable

import hpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.http2 import frames
from tests.service.http2.conftest import COLD, ECHO, LATER, MAX_MESSAGE_BYTES, Served
from tests.service.http2.peer import Peer, message, request_fields

TIMEOUT_S = 20


def test_a_call_is_answered_with_its_fields_message_and_trailers(peer: Peer) -> None:
    answer = peer.call(ECHO, b"hello")
    assert answer.messages == [b"hello"]
    assert answer.fields == {":status": "200", "content-type": "application/grpc", "grpc-status": "0"}


def test_hundreds_of_calls_on_one_connection_get_each_their_own_answer(peer: Peer) -> None:
    streams = [peer.ask(ECHO, str(number).encode() * (number % 7)) for number in range(500)]
    answers = peer.wait(*streams)
    assert [answer.messages for answer in answers] == [[str(number).encode() * (number % 7)] for number in range(500)]


def test_answers_may_come_from_any_thread_in_any_order(served: Served, peer: Peer) -> None:
    streams = [peer.ask(LATER, bytes([number])) for number in range(9)]
    calls = [served.later.get(timeout=TIMEOUT_S) for _ in streams]
    for call in reversed(calls):  # outside of any flush_scope: each is sent at once
        call.respond(call.payload * 2)
    with served.flush_scope:
        for answer, number in zip(peer.wait(*streams), range(9), strict=True):
            assert answer.messages == [bytes([number, number])]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_the_bytes_may_come_in_any_pieces(connect: Callable[..., Peer], data: st.DataObject) -> None:
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
def test_messages_of_any_size_come_and_go(peer: Peer, size: int) -> None:
    payload = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    assert peer.call(ECHO, payload).messages == [payload]


def test_streams_may_interleave_their_data(peer: Peer) -> None:
    streams = [peer.begin(ECHO) for _ in range(3)]
    contents = [message(bytes([number]) * 30_000) for number in range(3)]
    for at in range(0, len(contents[0]), 5_000):
        for stream, content in zip(streams, contents, strict=True):
            peer.send(stream, content[at : at + 5_000], end=at + 5_000 >= len(content))
    assert [answer.messages for answer in peer.wait(*streams)] == [[bytes([number]) * 30_000] for number in range(3)]


def raw(peer: Peer, *parts: bytes) -> None:
    """Sends frames behind h2's back, for stream 1; it must know the stream to read what comes."""
    peer.h2.send_headers(1, request_fields(ECHO), end_stream=True)
    peer.h2.data_to_send()
    peer.socket.sendall(b"".join(parts))


BLOCK = hpack.Encoder().encode(request_fields(ECHO))
HEAD = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, BLOCK)
BODY = frames.frame(frames.DATA, frames.END_STREAM, 1, message(b"hello"))
END = frames.frame(frames.DATA, frames.END_STREAM, 1)
TRAILERS = frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 1, b"\x00\x01a\x01b")
PRIORITY = b"\0\0\0\0\x10"


@pytest.mark.parametrize(
    "parts",
    [
        [frames.frame(frames.HEADERS, frames.END_HEADERS | frames.PADDED, 1, b"\x03" + BLOCK + b"\0\0\0"), BODY],
        [frames.frame(frames.HEADERS, frames.END_HEADERS | frames.PRIORITISED, 1, PRIORITY + BLOCK), BODY],
        [
            frames.frame(frames.HEADERS, 0, 1, BLOCK[:5]),
            frames.frame(frames.CONTINUATION, 0, 1, BLOCK[5:9]),
            frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, BLOCK[9:]),
            BODY,
        ],
        [HEAD, frames.frame(frames.DATA, frames.PADDED, 1, b"\x02" + message(b"hello") + b"\0\0"), END],
        [HEAD, frames.frame(frames.DATA, 0, 1, message(b"hello")), frames.frame(frames.DATA, 0, 1), TRAILERS],
        [HEAD, frames.frame(0x42, 0xFF, 1, b"of a kind unknown"), frames.frame(frames.PRIORITY, 0, 1, PRIORITY), BODY],
        [HEAD, BODY[:9][:3] + bytes([frames.DATA, frames.END_STREAM]) + b"\x80\0\0\x01" + BODY[9:]],
    ],
    ids=["padded head", "priority", "continued", "padded data", "trailers", "unknown frames", "reserved bit"],
)
def test_what_the_standard_allows_is_understood(peer: Peer, parts: list[bytes]) -> None:
    raw(peer, *parts)
    (answer,) = peer.wait(1)
    assert answer.messages == [b"hello"]


def test_a_ping_is_answered_and_settings_are_acknowledged(peer: Peer) -> None:
    peer.h2.ping(b"12345678")
    peer.flush()
    names: set[str] = set()
    while not {"PingAckReceived", "SettingsAcknowledged"} <= names:
        names |= {type(event).__name__ for event in peer.receive()}


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_messages_are_read(peer: Peer, encoding: str, pack: Callable[[bytes], bytes]) -> None:
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
def test_a_request_that_is_wrong_is_told_why_and_the_next_is_served(
    peer: Peer, path: str, data: bytes, more: tuple[tuple[str, str], ...], status: int, words: str
) -> None:
    stream = peer.begin(path, *more)
    peer.send(stream, data, end=True)
    (answer,) = peer.wait(stream)
    assert answer.status == status
    assert words in answer.fields["grpc-message"]
    assert peer.call(COLD, b"").status == 0


def test_what_is_not_grpc_gets_a_status_of_http(peer: Peer) -> None:
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


def test_a_message_that_is_too_long_is_refused_by_its_length_alone(peer: Peer) -> None:
    """The rest never comes."""
    stream = peer.begin(ECHO)
    peer.send(stream, b"\0" + (MAX_MESSAGE_BYTES + 1).to_bytes(4, "big"))
    (answer,) = peer.wait(stream)
    assert answer.status == 8
    assert f"larger than max ({MAX_MESSAGE_BYTES + 1} vs. {MAX_MESSAGE_BYTES} bytes)" in answer.fields["grpc-message"]
    assert peer.call(ECHO, b"next").messages == [b"next"]


def test_too_many_large_messages_at_once_are_refused_and_make_room_again(peer: Peer) -> None:
    length = MAX_MESSAGE_BYTES.to_bytes(4, "big")
    begun = [peer.begin(ECHO) for _ in range(9)]
    for stream in begun:
        peer.send(stream, b"\0" + length)
    (answer,) = peer.wait(begun[8])
    assert (answer.status, "too many large messages at once" in answer.fields["grpc-message"]) == (8, True)
    peer.h2.reset_stream(begun[0])
    peer.flush()
    assert peer.call(ECHO, bytes(MAX_MESSAGE_BYTES)).messages == [bytes(MAX_MESSAGE_BYTES)]
