"""The core's own promises, in memory: windows, turns, bounds, GOAWAY, and nothing left behind."""

import gzip
import random
import struct
from collections.abc import Iterator

import hpack
import pytest

from service.http2 import frames
from service.http2.connection import Connection
from service.http2.deframer import INFLATE_BYTES, ReceiveBudget
from service.http2.events import (
    CallStarted,
    Cancelled,
    ConnectionEnded,
    Event,
    HalfClosed,
    MessageReceived,
    RequestRejected,
    ResponseDrained,
)
from service.http2.header_blocks import MAX_PENDING_BYTES
from service.http2.receiver import CONNECTION_WINDOW, MAX_TURN_FRAMES
from service.http2.stream import LARGE_STREAM_WINDOW, Stream
from tests.conformance.outcome import read, split
from tests.service.rpc.peer import message, request_fields

MAX_MESSAGE_BYTES = 2**20
HELLO = frames.PREFACE + frames.settings({})


class Client:
    """Frames of a client, and the core that takes them."""

    def __init__(self, **settings: int) -> None:
        self.budget = ReceiveBudget(MAX_MESSAGE_BYTES, 4 * MAX_MESSAGE_BYTES, 2 * MAX_MESSAGE_BYTES)
        self.connection = Connection(self.budget)
        self.encoder = hpack.Encoder()
        values = {frames.INITIAL_WINDOW_SIZE: settings["window"]} if settings else {}
        self.receive(frames.PREFACE + frames.settings(values))
        self.connection.data_to_send()

    def receive(self, wire: bytes) -> list[Event]:
        """All events of these bytes, in as many turns as they take."""
        events = list(self.connection.receive_data(wire))
        while self.connection.has_unread:
            events += self.connection.receive_data(b"")
        return events

    def head(self, stream: int, *more: tuple[str, str], end: bool = False) -> bytes:
        block = self.encoder.encode(request_fields("/a.B/C", *more))
        return frames.frame(frames.HEADERS, frames.END_HEADERS | end, stream, block)

    def ask(self, stream: int, payload: bytes = b"x") -> Stream:
        """A whole request; gives its stream."""
        events = self.receive(self.head(stream) + frames.frame(frames.DATA, 1, stream, message(payload)))
        assert isinstance(events[0], CallStarted)
        return events[0].stream

    def sent(self) -> list[tuple[int, int, int, bytes]]:
        return list(split(self.connection.data_to_send()))

    def sent_data(self) -> int:
        return sum(len(payload) for kind, _, _, payload in self.sent() if kind == frames.DATA)


def test_events_of_a_call() -> None:
    """A request in one HEADERS and one DATA frame is two events, and its answer three frames."""
    client = Client()
    started, received = client.receive(client.head(1) + frames.frame(frames.DATA, 1, 1, message(b"hello")))
    assert isinstance(started, CallStarted)
    assert received == MessageReceived(started.stream, b"hello", half_closed=True)
    client.connection.send_unary(started.stream, b"answer")
    assert [(kind, flags, stream) for kind, flags, stream, _ in client.sent()] == [(1, 4, 1), (0, 0, 1), (1, 5, 1)]
    assert not client.connection.streams


def test_window_opens_octet_by_octet() -> None:
    """An answer is sent exactly as far as its stream's window is opened, and then its trailers."""
    client = Client(window=0)
    stream = client.ask(1)
    client.connection.send_unary(stream, b"12345")
    assert client.sent_data() == 0
    for _ in range(9):
        client.receive(frames.window_update(1, 1))
        assert client.sent_data() == 1
    events = client.receive(frames.window_update(1, 1))
    assert [kind for kind, *_ in client.sent()] == [frames.DATA, frames.HEADERS]
    assert events == []
    assert client.connection.pending_bytes == 0


def test_drained_streams_are_told() -> None:
    """A stream whose messages waited is told of when the client has opened its window for all of them."""
    client = Client(window=0)
    stream = client.ask(1)
    client.connection.send_message(stream, b"12345")
    assert client.receive(frames.window_update(1, 9)) == []
    assert client.receive(frames.window_update(1, 1)) == [ResponseDrained(stream)]


def test_updates_leave_other_streams_alone() -> None:
    """A window of the connection that opens by one lets one octet go, however many answers wait."""
    client = Client()
    streams = [client.ask(number) for number in range(1, 201, 2)]
    for stream in streams:
        client.connection.send_unary(stream, bytes(2000))
    assert client.sent_data() == 65_535
    for _ in range(100):
        client.receive(frames.window_update(0, 1))
        assert client.sent_data() == 1


def test_turn_is_bounded() -> None:
    """One call of receive_data reads a turn's frames at most, and has_unread tells that there are more."""
    client = Client()
    list(client.connection.receive_data(frames.frame(frames.PING, 0, 0, bytes(8)) * 2000))
    turns = [len(client.sent())]
    while client.connection.has_unread:
        list(client.connection.receive_data(b""))
        turns.append(len(client.sent()))
    assert max(turns) <= MAX_TURN_FRAMES
    assert sum(turns) == 2000


def test_messages_of_a_frame_are_bounded() -> None:
    """Thousands of messages in one frame come in several turns."""
    client = Client()
    client.receive(client.head(1))
    events = list(client.connection.receive_data(frames.frame(frames.DATA, 0, 1, message(b"") * 3000)))
    assert len(events) <= MAX_TURN_FRAMES + 1
    assert client.connection.has_unread
    assert len(events) + len(client.receive(b"")) == 3000


def test_decompression_is_a_turns_work() -> None:
    """Messages that unpack to a megabyte each come one a turn, whether in streams of their own or in one."""
    client = Client()
    client.budget.max_message_bytes = client.budget.max_connection_bytes = 2 * INFLATE_BYTES
    packed = message(gzip.compress(bytes(INFLATE_BYTES)), flag=1)
    wire = b"".join(
        client.head(stream, ("grpc-encoding", "gzip")) + frames.frame(frames.DATA, 1, stream, packed)
        for stream in range(1, 21, 2)
    )
    wire += client.head(21, ("grpc-encoding", "gzip")) + frames.frame(frames.DATA, 1, 21, packed * 10)
    turns = [list(client.connection.receive_data(wire))]
    while client.connection.has_unread:
        turns.append(list(client.connection.receive_data(b"")))
    found = [sum(isinstance(event, MessageReceived) for event in events) for events in turns]
    assert sum(found) == 20
    assert max(found) == 1


def test_paused_stream_gets_no_window() -> None:
    """While a stream is paused its messages stay where they are, and its client's window is not opened again."""
    client = Client()
    (started,) = client.receive(client.head(1))
    assert isinstance(started, CallStarted)
    client.connection.pause(started.stream)
    whole = message(bytes(5_000)) * 200  # within its window
    wire = b"".join(frames.frame(frames.DATA, 0, 1, whole[at : at + 16_384]) for at in range(0, len(whole), 16_384))
    assert client.receive(wire) == []
    assert not [stream for kind, _, stream, _ in client.sent() if kind == frames.WINDOW_UPDATE and stream]
    client.connection.resume(started.stream)
    assert len(client.receive(b"")) == 200
    assert client.budget.held == 0


def test_connection_window_is_opened_again() -> None:
    """What has been received on the connection is allowed again before half of its window is used up."""
    client = Client()
    client.receive(client.head(1))
    granted = CONNECTION_WINDOW
    for at in range(3):
        client.receive(frames.frame(frames.DATA, 0, 1, message(bytes(16_000))) * 260)
        granted += sum(
            int.from_bytes(payload, "big")
            for kind, _, stream, payload in client.sent()
            if kind == frames.WINDOW_UPDATE and stream == 0
        )
        assert granted - 260 * 16_005 * (at + 1) >= CONNECTION_WINDOW // 2


def test_large_message_enlarges_windows() -> None:
    """A message beyond its stream's window opens that at once; the connection's next streams have the large one."""
    client = Client()
    budget, size = client.budget, LARGE_STREAM_WINDOW // 2
    budget.max_message_bytes, budget.max_connection_bytes, budget.max_bytes = size, 2 * size, 4 * size
    announced = frames.settings({frames.INITIAL_WINDOW_SIZE: LARGE_STREAM_WINDOW})
    for stream in (1, 3):
        (started,) = client.connection.receive_data(client.head(stream))
        assert isinstance(started, CallStarted)
        started.stream.whole_only = True
        client.receive(frames.frame(frames.DATA, 0, stream, struct.pack(">BL", 0, size)))
        assert client.connection.data_to_send() == (announced if stream == 1 else b"")
        pieces = [frames.frame(frames.DATA, 0, stream, bytes(10_000))] * (size // 10_000)
        last = frames.frame(frames.DATA, 1, stream, bytes(size % 10_000))
        (received,) = client.receive(b"".join([*pieces, last]))
        assert isinstance(received, MessageReceived)
        assert len(received.payload) == size
        client.connection.send_unary(started.stream, b"")
        client.connection.data_to_send()


def test_waiting_answers_are_bounded() -> None:
    """A client that takes no answers gets no new ones beyond a bound, until it takes some."""
    client = Client(window=0)
    for number in range(1, 9, 2):
        client.connection.send_unary(client.ask(number), bytes(MAX_PENDING_BYTES // 4))
    events = client.receive(client.head(9))
    assert [type(event) for event in events] == [RequestRejected]


def test_goaway_twice() -> None:
    """The first GOAWAY names the highest stream there can be, the last one the last that was begun."""
    client = Client()
    first = client.ask(1)
    client.connection.goaway()
    second = client.ask(3)
    client.connection.goaway(final=True)
    assert client.receive(client.head(5)) == []
    for stream in (first, second):
        client.connection.send_unary(stream, b"")
    data = client.connection.data_to_send()
    last = [int.from_bytes(payload[:4], "big") for kind, _, _, payload in split(data) if kind == frames.GOAWAY]
    assert last == [2**31 - 1, 3]
    assert read(data).resets == {5: frames.ErrorCode.REFUSED_STREAM}


def test_fault_names_the_last_stream() -> None:
    """A connection error says which streams were begun."""
    client = Client()
    client.ask(7)
    (ended,) = client.receive(frames.window_update(0, 0))
    assert isinstance(ended, ConnectionEnded)
    (payload,) = (payload for kind, _, _, payload in client.sent() if kind == frames.GOAWAY)
    assert payload[:8] == (7).to_bytes(4, "big") + (1).to_bytes(4, "big")


def test_early_answer_ends_the_request() -> None:
    """An answer before the request's end is followed by RST_STREAM NO_ERROR, and late data are passed over."""
    client = Client()
    (started,) = client.receive(client.head(1))
    assert isinstance(started, CallStarted)
    client.connection.send_trailers(started.stream, 8, "too large")
    assert read(client.connection.data_to_send()).resets == {1: 0}
    assert client.receive(frames.frame(frames.DATA, 1, 1, message(b"late"))) == []
    assert client.sent() == []


def test_long_error_keeps_to_frames() -> None:
    """Trailers that are longer than a frame may be go on in CONTINUATION."""
    block = bytes(40_000)
    parts = list(split(frames.header_frames(1, block, frames.END_STREAM, 16_384)))
    assert [(kind, flags, len(payload)) for kind, flags, _, payload in parts] == [
        *((1, 1, 16_384), (9, 0, 16_384)),
        (9, 4, 40_000 - 2 * 16_384),
    ]


def script(chance: random.Random) -> Iterator[bytes]:
    """Frames, mostly in an order that makes sense."""
    encoder, streams = hpack.Encoder(), [1]
    for _ in range(chance.randint(1, 50)):
        kind = chance.random()
        if kind < 0.5:
            more = [("grpc-encoding", chance.choice(["gzip", "x"]))] if chance.random() < 0.2 else []
            block = encoder.encode(request_fields("/a.B/C", *more))
            yield frames.frame(frames.HEADERS, frames.END_HEADERS | (chance.random() < 0.1), streams[-1], block)
            yield from body(chance, streams[-1])
            streams.append(streams[-1] + 2)
        elif kind < 0.6:
            yield frames.frame(frames.DATA, chance.choice([0, 1]), chance.choice(streams), message(b"more")[:7])
        elif kind < 0.7:
            yield frames.rst_stream(chance.choice(streams), frames.ErrorCode.CANCEL)
        elif kind < 0.8:
            yield frames.window_update(chance.choice([0, *streams]), chance.choice([1, 10, 100_000]))
        elif kind < 0.9:
            yield frames.settings({frames.INITIAL_WINDOW_SIZE: chance.choice([0, 1, 65_535, 2**20])})
        elif kind < 0.95:
            content = chance.randbytes(chance.choice([0, 4, 8, 40]))
            yield frames.frame(chance.randrange(20), chance.randrange(256), chance.choice(streams), content)


def body(chance: random.Random, stream: int) -> Iterator[bytes]:
    """A message in frames: whole, or with a length that is wrong, or cut short."""
    size = chance.choice([0, 1, 5, 100, 20_000, 70_000])
    content = bytes([chance.choice([0, 0, 0, 0, 1, 7])]) + max(0, size + chance.choice([0, 0, 0, 3, -1])).to_bytes(4)
    content += bytes(size)
    while content:
        part = min(chance.choice([len(content), 16_384, 1_000]), 16_384)
        last = part >= len(content) and chance.random() < 0.8
        yield frames.frame(frames.DATA, int(last), stream, content[:part])
        content = content[part:]
        if chance.random() < 0.03:
            return


@pytest.mark.parametrize("first", range(0, 2000, 500))
def test_nothing_stays_behind(first: int) -> None:
    """After random conversations, right and wrong, no byte is counted and no stream is open that was ended."""
    for seed in range(first, first + 500):
        chance = random.Random(seed)  # noqa: S311 - no secret
        client, waiting = Client(), set[Stream]()
        wire, at, ended = b"".join(script(chance)), 0, False
        while at < len(wire) and not ended:
            size = chance.choice([1, 9, 50, 1_000, 2**18])
            for event in client.receive(wire[at : at + size]):
                if isinstance(event, CallStarted):
                    event.stream.whole_only = chance.random() < 0.5
                    waiting.add(event.stream)
                elif isinstance(event, MessageReceived | HalfClosed | RequestRejected) and chance.random() < 0.6:
                    answer(client.connection, event.stream, chance)
                elif isinstance(event, Cancelled):
                    waiting.discard(event.stream)
                ended |= isinstance(event, ConnectionEnded)
            at += size
        for stream in waiting:
            answer(client.connection, stream, chance)
        client.receive(frames.settings({frames.INITIAL_WINDOW_SIZE: 2**24}) + frames.window_update(0, 2**30))
        assert ended or not client.connection.streams, f"streams of seed {seed}"
        assert client.connection.pending_bytes == 0, f"answers of seed {seed}"
        client.connection.close()
        assert client.budget.held == 0, f"bytes of seed {seed}"


def answer(connection: Connection, stream: Stream, chance: random.Random) -> None:
    """Ends a stream in one of the ways that there are."""
    kind = chance.randrange(4)
    if kind == 0:
        connection.send_unary(stream, bytes(chance.choice([0, 10, 100_000])))
    elif kind == 1:
        connection.send_message(stream, b"one")
        connection.send_message(stream, bytes(50_000))
        connection.send_trailers(stream)
    elif kind == 2:
        connection.send_trailers(stream, 3, "wrong")
    else:
        connection.reset(stream)
