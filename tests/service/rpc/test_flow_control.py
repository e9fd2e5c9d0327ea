"""Nothing is sent that the client has not allowed, and all that it has."""

import contextlib
from collections.abc import Callable

import h2.settings
import hpack
import pytest

from service.http2 import frames
from tests.service.rpc.conftest import ECHO, LATER, Served
from tests.service.rpc.peer import Peer, message, request_fields

TIMEOUT_S = 20
INITIAL_WINDOW_SIZE = h2.settings.SettingCodes.INITIAL_WINDOW_SIZE


@pytest.mark.parametrize("window", [0, 1, 10, 65_535])
def test_answer_keeps_to_its_window(connect: Callable[..., Peer], window: int) -> None:
    """A strict client of h2 raises where more comes."""
    peer = connect(window)
    stream = peer.ask(ECHO, bytes(range(250)) * 400)
    answer = peer.answers[stream]
    while not answer.ended:
        peer.h2.increment_flow_control_window(30_001, stream)
        peer.flush()
        before = len(answer.data)
        while len(answer.data) == before and not answer.ended:
            peer.receive()
    assert answer.messages == [bytes(range(250)) * 400]


def test_answers_share_the_window(peer: Peer) -> None:
    """It stays shut until all that fits has come, and then opens for the rest."""
    while peer.h2.outbound_flow_control_window <= 65_535:  # else it would have to read answers to go on asking
        peer.receive()
    streams = [peer.ask(ECHO, bytes([number]) * 40_000) for number in range(5)]
    received = 0
    while received < 65_535:
        peer.receive(acknowledge=False)
        received = sum(len(peer.answers[stream].data) for stream in streams)
    assert received == 65_535
    for stream in streams:
        peer.h2.acknowledge_received_data(len(peer.answers[stream].data), stream)
    peer.h2.increment_flow_control_window(200_000)
    peer.flush()
    answers = peer.wait(*streams)
    assert [answer.messages for answer in answers] == [[bytes([number]) * 40_000] for number in range(5)]


def test_window_shrinks_below_nothing(peer: Peer) -> None:
    """A window may shrink below nothing while an answer waits."""
    stream = peer.ask(ECHO, bytes(100_000))
    answer = peer.answers[stream]
    while len(answer.data) < 65_535:
        peer.receive(acknowledge=False)
    peer.h2.update_settings({INITIAL_WINDOW_SIZE: 10})
    peer.h2.increment_flow_control_window(200_000)  # the connection's
    peer.h2.ping(b"answered")
    peer.flush()
    while not any(type(event).__name__ == "PingAckReceived" for event in peer.seen):
        peer.receive(acknowledge=False)
    assert len(answer.data) == 65_535
    peer.h2.increment_flow_control_window(100_000, stream)
    peer.flush()
    peer.wait(stream, acknowledge=False)
    assert answer.messages == [bytes(100_000)]


def test_reset_leaves_the_window(
    connect: Callable[..., Peer],
) -> None:
    """A stream that is reset while its answer waits leaves the window to others."""
    peer = connect(10)
    waiting = peer.ask(ECHO, bytes(1000))
    while not peer.answers[waiting].data:
        peer.receive(acknowledge=False)
    peer.h2.reset_stream(waiting)
    other = peer.ask(ECHO, b"12345")
    (answer,) = peer.wait(other)
    assert answer.messages == [b"12345"]
    assert len(peer.answers[waiting].data) == 10


def test_windows_are_opened_again(peer: Peer) -> None:
    """Of a stream 2 MiB, where it began with one; of the connection as much as there is."""
    for _ in range(4):
        assert peer.call(ECHO, bytes(2**21)).messages == [bytes(2**21)]


def test_unread_answers_stop_reading(connect: Callable[..., Peer]) -> None:
    """What it asks for is bounded by the streams it may open; it is read no more when its answers pile up."""
    greedy, other = connect(2**31 - 1), connect()
    greedy.socket.settimeout(0.5)
    greedy.socket.sendall(frames.window_update(0, 2**31 - 1 - 65_535))
    content, encoder, asked = message(bytes(300_000)), hpack.Encoder(), 0
    with contextlib.suppress(TimeoutError):
        for stream in range(1, 400, 2):
            block = encoder.encode(request_fields(ECHO))
            greedy.socket.sendall(frames.frame(frames.HEADERS, frames.END_HEADERS, stream, block))
            for at in range(0, len(content), 16_384):
                flag = frames.END_STREAM if at + 16_384 >= len(content) else 0
                greedy.socket.sendall(frames.frame(frames.DATA, flag, stream, content[at : at + 16_384]))
            asked += 1
    assert asked < 200
    assert other.call(ECHO, b"still here").messages == [b"still here"]


def test_cancelled_call_is_cancelled(served: Served, peer: Peer) -> None:
    """A call that its client cancels is cancelled here."""
    stream = peer.ask(LATER, b"x")
    call = served.later.get(timeout=TIMEOUT_S)
    peer.h2.reset_stream(stream)
    peer.flush()
    assert served.cancelled.get(timeout=TIMEOUT_S) is call
    call.respond(b"too late")
    assert peer.call(ECHO, b"next").messages == [b"next"]
    assert peer.answers[stream].data == b""


def test_lost_connection_cancels_its_calls(served: Served, connect: Callable[..., Peer]) -> None:
    """A connection that is lost cancels all its calls."""
    peer, other = connect(), connect()
    for number in range(5):
        peer.ask(LATER, bytes([number]))
    calls = {served.later.get(timeout=TIMEOUT_S) for _ in range(5)}
    peer.socket.close()
    assert {served.cancelled.get(timeout=TIMEOUT_S) for _ in range(5)} == calls
    for call in calls:
        call.respond(b"too late")
    assert other.call(ECHO, b"x").messages == [b"x"]


def test_excess_streams_are_refused(served: Served, peer: Peer) -> None:
    """So that a client may send them again: REFUSED_STREAM says that nothing was done."""
    while not peer.seen:
        peer.receive()
    peer.h2.remote_settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS] = 2**31 - 1
    peer.h2.remote_settings.acknowledge()
    streams = [peer.ask(LATER, b"x") for _ in range(1030)]
    calls = [served.later.get(timeout=TIMEOUT_S) for _ in range(1024)]
    refused = peer.wait(*streams[1024:])
    assert [answer.reset for answer in refused] == [7] * 6
    for call in calls:
        call.respond(call.payload)
    assert all(answer.messages == [b"x"] for answer in peer.wait(*streams[:1024]))
