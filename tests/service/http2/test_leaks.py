"""Whatever happens on a connection, nothing of its requests stays behind: no call, no stream, no byte that was counted.

Random conversations, right and wrong, over a socket that takes what it likes: what real sockets let nobody see.
"""

import contextlib
import random
import select
import socket
from collections.abc import Callable, Iterator
from typing import cast

import hpack
import pytest

from service.http2 import frames
from service.http2.incoming import Incoming
from service.http2.messages import Allowance
from service.http2.outgoing import Outgoing
from service.pb import open_inference_pb2 as pb
from service.rpc import BidiMethod, Call, FlushScope, ImmediateMethod, Methods
from service.rpc.inflight import InFlightCalls
from service.rpc.router import Router
from tests.service.http2.peer import message, request_fields

MAX_MESSAGE_BYTES = 2**16
PATHS = [
    *("/t/Echo", "/t/Later", "/t/Cold", "/t/Stream", "/t/Nothing"),
    *("/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
]


class Socket:
    """Takes all, half or nothing of what it is given, and forgets it; its own epoll too."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def send(self, data: memoryview) -> int:
        if self._chance.random() < 0.1:
            raise BlockingIOError
        return len(data) if self._chance.random() < 0.8 else max(1, len(data) // 2)

    def close(self, *_: object) -> None:
        """There is nothing to close, and nobody polls."""

    modify = unregister = shutdown = close


class Conversation:
    """A connection, and the calls on it that nobody has answered yet."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.waiting: list[Call] = []
        self.chores: list[Callable[[], None]] = []
        self.inflight = InFlightCalls(MAX_MESSAGE_BYTES)
        self.allowance = Allowance(MAX_MESSAGE_BYTES, 4 * MAX_MESSAGE_BYTES)
        self.flush_scope = FlushScope()
        methods = Methods(
            deferred={"/t/Echo": lambda call: call.respond(call.payload), "/t/Later": self.waiting.append},
            immediate={"/t/Cold": ImmediateMethod(pb.ServerLiveRequest, lambda _: pb.ServerLiveResponse(live=True))},
            bidi={"/t/Stream": BidiMethod(self.waiting.append, lambda _: b"wrapped")},
        )
        double = Socket(chance)
        taker, poll = cast(socket.socket, double), cast(select.epoll, double)
        self.incoming = Incoming(
            Router(methods, self.inflight, self.chores.append).find,
            self.allowance,
            lambda streams: Outgoing(taker, poll, streams),
            lambda error: (2, str(error)),
            self.flush_scope.schedule_flush,
        )

    def answer_some(self) -> None:
        for call in self.chance.sample(self.waiting, len(self.waiting) // 2):
            self.waiting.remove(call)
            if self.chance.random() < 0.8:
                call.respond(bytes(self.chance.choice([0, 10, 100_000])))
            else:
                call.fail(ValueError("for the log"))
        while self.chores:
            self.chores.pop(0)()

    def end(self) -> None:
        for call in self.waiting:
            call.respond(b"late")
        while self.chores:
            self.chores.pop(0)()
        self.incoming.lost()


def script(chance: random.Random) -> Iterator[bytes]:
    """Frames, mostly in an order that makes sense."""
    encoder, streams = hpack.Encoder(), [1]
    yield frames.PREFACE
    for _ in range(chance.randint(1, 50)):
        kind = chance.random()
        if kind < 0.5:
            more = [("grpc-timeout", chance.choice(["1S", "100u", "x"]))] if chance.random() < 0.2 else []
            block = encoder.encode(request_fields(chance.choice(PATHS), *more))
            yield frames.frame(frames.HEADERS, frames.END_HEADERS | (chance.random() < 0.1), streams[-1], block)
            yield from body(chance, streams[-1])
            streams.append(streams[-1] + 2)
        elif kind < 0.6:
            yield frames.frame(frames.DATA, chance.choice([0, 1]), chance.choice(streams), message(b"more")[:7])
        elif kind < 0.7:
            yield frames.reset(chance.choice(streams), frames.Code.CANCEL)
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


@pytest.mark.parametrize("first", range(0, 3000, 500))
def test_nothing_stays_behind(first: int) -> None:
    for seed in range(first, first + 500):
        chance = random.Random(seed)  # noqa: S311 - no secret
        bidi_call = Conversation(chance)
        content, at = b"".join(script(chance)), 0
        with contextlib.suppress(frames.Fault):
            while at < len(content):
                size = chance.choice([1, 9, 50, 1_000, 2**18])
                with bidi_call.flush_scope:
                    bidi_call.incoming.receive(content[at : at + size])
                at += size
                bidi_call.answer_some()
        bidi_call.end()
        bidi_call.inflight.stop_admitting()
        assert bidi_call.inflight.drain(0.0), f"calls of seed {seed}"
        assert not bidi_call.incoming.streams, f"streams of seed {seed}"
        for _ in range(4):  # all that may be on its way at once: raises where some is thought to be still
            bidi_call.allowance.take(MAX_MESSAGE_BYTES)
