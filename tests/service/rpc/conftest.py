"""A native transport with methods of its own, in this process, behind a real socket."""

from collections.abc import Callable, Iterator
from queue import SimpleQueue

import pytest

from service.pb import open_inference_pb2 as pb
from service.rpc import BidiMethod, Call, FlushScope, ImmediateMethod, Methods, NativeTransport, TransportOptions
from tests.service.rpc.peer import Peer

ECHO, LATER, COLD, STREAM = "/test.Test/Echo", "/test.Test/Later", "/test.Test/Cold", "/test.Test/Stream"
MAX_MESSAGE_BYTES = 2**21


class Served:
    """A transport, and the calls that wait for a test to answer them."""

    def __init__(self) -> None:
        self.later: SimpleQueue[Call] = SimpleQueue()
        self.cancelled: SimpleQueue[Call] = SimpleQueue()
        self.flush_scope = FlushScope()
        methods = Methods(
            deferred={ECHO: lambda call: call.respond(call.payload), LATER: self._keep},
            immediate={COLD: ImmediateMethod(pb.ServerLiveRequest, lambda _: pb.ServerLiveResponse(live=True))},
            bidi={STREAM: BidiMethod(self._keep, lambda _, answer: answer if isinstance(answer, bytes) else b"!")},
        )
        self.transport = NativeTransport(
            "127.0.0.1:0", methods, self._dispatch, TransportOptions(MAX_MESSAGE_BYTES), self.flush_scope
        )

    def _keep(self, call: Call) -> None:
        call.on_cancel(lambda: self.cancelled.put(call))
        self.later.put(call)

    def _dispatch(self) -> bool:
        """There is no batcher here."""
        return False


@pytest.fixture
def served() -> Iterator[Served]:
    """Listens."""
    served = Served()
    with served.transport:
        yield served


@pytest.fixture
def connect(served: Served) -> Iterator[Callable[..., Peer]]:
    """Makes clients, and closes them."""
    peers: list[Peer] = []

    def make(window: int | None = None) -> Peer:
        peers.append(Peer(served.transport.port, window=window))
        return peers[-1]

    yield make
    for peer in peers:
        peer.socket.close()


@pytest.fixture
def peer(connect: Callable[..., Peer]) -> Peer:
    """One client."""
    return connect()
