"""What both transports promise alike, by a real client of gRPC."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from queue import SimpleQueue

import grpc
import pytest
from grpc_health.v1 import health_pb2

from service.errors import InvalidRequest
from service.http2 import frames
from service.rpc import BidiMethod, Call, Methods, NativeTransport, Transport, TransportOptions
from service.rpc.grpc_aio_server import GrpcioTransport
from tests.conformance.outcome import split
from tests.service.rpc.peer import Peer, message

ECHO, LATER, NAMED, STREAM = "/test.Test/Echo", "/test.Test/Later", "/test.Test/Named", "/test.Test/Stream"
REFUSED, REFUSED_STREAM = "/test.Test/Refused", "/test.Test/RefusedStream"
TIMEOUT_S = 20
KINDS: dict[str, Callable[..., NativeTransport | GrpcioTransport]] = {
    "native": NativeTransport,
    "grpcio": GrpcioTransport,
}
FIELDS = ("authorization", "traceparent", "x-request-id", "absent")


class Served:
    """A transport of either kind, and the calls that wait for a test to answer them."""

    def __init__(self, kind: str, **options: float) -> None:
        self.later: SimpleQueue[Call] = SimpleQueue()
        self.cancelled, self.let_go = threading.Event(), threading.Event()
        methods = Methods(
            deferred={
                ECHO: lambda call: call.respond(call.payload),
                LATER: self._keep,
                NAMED: _named,
                REFUSED: self._refuse,
            },
            immediate={},
            bidi={STREAM: BidiMethod(_named, _wrap), REFUSED_STREAM: BidiMethod(self._refuse, _wrap)},
        )
        given = TransportOptions(2**20, **options)  # type: ignore[arg-type]  # seconds
        self.transport: AbstractContextManager[Transport] = KINDS[kind]("127.0.0.1:0", methods, lambda: False, given)

    def _keep(self, call: Call) -> None:
        call.on_cancel(self.cancelled.set)
        self.later.put(call)

    def _refuse(self, call: Call) -> None:
        call.model = frozenset((object(),))
        weakref.finalize(call.model, self.let_go.set)
        raise InvalidRequest("no")


def _wrap(_request: bytes, answer: bytes | str) -> bytes:
    return answer if isinstance(answer, bytes) else b"!"


def _named(call: Call) -> None:
    call.respond(repr([call.metadata(name) for name in FIELDS]).encode())


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def served(kind: str) -> Iterator[tuple[Served, Transport]]:
    served = Served(kind)
    with served.transport as transport:
        yield served, transport


@pytest.fixture
def channel(served: tuple[Served, Transport]) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{served[1].port}") as channel:
        yield channel


def test_metadata_reaches_the_call(channel: grpc.Channel) -> None:
    """A call is told its caller's metadata by name, also a stream's; of a name that is absent, None."""
    metadata = (("authorization", "Bearer x"), ("traceparent", "00-1"), ("x-request-id", "a"), ("x-request-id", "b"))
    expected = b"['Bearer x', '00-1', 'b', None]"
    assert channel.unary_unary(NAMED, None, None)(b"", timeout=TIMEOUT_S, metadata=metadata) == expected
    stream = channel.stream_stream(STREAM, None, None)
    assert list(stream(iter([b"", b""]), timeout=TIMEOUT_S, metadata=metadata)) == [expected] * 2


def test_keepalive_pings_end_nothing(served: tuple[Served, Transport]) -> None:
    """A hundred pings while one call waits, and as many without any, leave the connection as it was."""
    with Peer(served[1].port) as peer:
        stream = peer.ask(LATER, b"x")
        call = served[0].later.get(timeout=TIMEOUT_S)
        for _ in range(2):
            for number in range(100):
                peer.h2.ping(number.to_bytes(8, "big"))
            peer.flush()
            answered = 0
            while answered < 100:
                answered += sum(type(event).__name__ == "PingAckReceived" for event in peer.receive())
            if not peer.answers[stream].ended:
                call.respond(b"answer")
                peer.wait(stream)
        assert peer.gone is None
        assert peer.answers[stream].messages == [b"answer"]


@pytest.mark.parametrize("path", [LATER, STREAM, "/grpc.health.v1.Health/Watch"], ids=["unary", "stream", "watch"])
def test_deadline_ends_unfinished_requests(served: tuple[Served, Transport], path: str) -> None:
    """A request that never ends is ended by its own deadline, whatever its kind."""
    with Peer(served[1].port) as peer:
        stream = peer.begin(path, ("grpc-timeout", "50m"))
        if path != STREAM:
            peer.send(stream, message(b"") if "Watch" in path else message(b"x")[:5])
        (answer,) = peer.wait(stream)
        assert answer.reset is not None or answer.status == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]


def test_deadline_cancels_the_call(served: tuple[Served, Transport]) -> None:
    """A call that is not answered in its time is cancelled, and its answer is dropped."""
    with Peer(served[1].port) as peer:
        stream = peer.ask(LATER, b"x", ("grpc-timeout", "50m"))
        call = served[0].later.get(timeout=TIMEOUT_S)
        peer.wait(stream)
        assert served[0].cancelled.wait(TIMEOUT_S)
        call.respond(b"late")
        assert peer.call(ECHO, b"next").messages == [b"next"]


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_in_both_versions(channel: grpc.Channel, version: str) -> None:
    """Both versions of reflection list the services and describe themselves."""
    name = f"grpc.reflection.{version}.ServerReflection"
    ask = channel.stream_stream(f"/{name}/ServerReflectionInfo", None, None)
    question = b"\x22" + bytes([len(name)]) + name.encode()
    listed, described = ask(iter([b"\x3a\x00", question]), timeout=TIMEOUT_S)
    assert b"test.Test" in listed
    assert f"grpc.reflection.{version}".encode() in described
    assert b"ServerReflectionRequest" in described


def test_goaway_on_drain(served: tuple[Served, Transport]) -> None:
    """Clients are asked to go before any call is refused, and what they still send is served."""
    with Peer(served[1].port) as peer:
        assert peer.call(ECHO, b"first").messages == [b"first"]
        stream = peer.ask(LATER, b"x")
        call = served[0].later.get(timeout=TIMEOUT_S)
        served[1].send_goaway()
        received = read_until(peer, lambda kind, _, __: kind == frames.GOAWAY)
        (goaway,) = (payload for kind, _, _, payload in split(received) if kind == frames.GOAWAY)
        assert goaway[:8] == (2**31 - 1).to_bytes(4, "big") + bytes(4)
        call.respond(b"answer")
        received = read_until(peer, lambda kind, flags, _: kind == frames.HEADERS and bool(flags & frames.END_STREAM))
        assert message(b"answer") in received
        assert peer.answers[stream].data == b""


@pytest.mark.parametrize("option", ["max_connection_age_s", "connection_idle_s"])
def test_connections_are_asked_to_go(kind: str, option: str) -> None:
    """Where an age or an idle time is set, a connection gets GOAWAY after it, without an error."""
    served = Served(kind, **{option: 0.5})
    with served.transport as transport, Peer(transport.port) as peer:
        assert peer.call(ECHO, b"x").messages == [b"x"]
        read_until(peer, lambda kind, _, __: kind == frames.GOAWAY)


def read_until(peer: Peer, found: Callable[[int, int, bytes], bool]) -> bytes:
    """Reads frames behind h2's back, which reads nothing more after a GOAWAY; gives them once one is found."""
    received = b""
    while not any(found(kind, flags, payload) for kind, flags, _, payload in split(received)):
        part = peer.socket.recv(65_536)
        assert part, "the connection was closed"
        received += part
    return received


def test_watch_forgets_its_name(channel: grpc.Channel, served: tuple[Served, Transport]) -> None:
    """A watch of a name that nobody knows says so, and one of a known name follows it."""
    watch = channel.unary_stream("/grpc.health.v1.Health/Watch", None, None)
    unknown = watch(b"\x0a\x07nothing", timeout=TIMEOUT_S)
    states = health_pb2.HealthCheckResponse
    assert states.FromString(next(iter(unknown))).status == states.SERVICE_UNKNOWN
    unknown.cancel()  # type: ignore[no-untyped-call]  # in grpc-stubs
    served[1].set_ready({"known": True})
    known = iter(watch(b"\x0a\x05known", timeout=TIMEOUT_S))
    assert states.FromString(next(known)).status == states.SERVING
    served[1].set_ready({"known": False})
    assert states.FromString(next(known)).status == states.NOT_SERVING


def test_watched_names_are_short(channel: grpc.Channel) -> None:
    """A name that no model can have is not kept for a watch: it is refused."""
    watch = channel.unary_stream("/grpc.health.v1.Health/Watch", None, None)
    request = health_pb2.HealthCheckRequest(service="x" * 1_025).SerializeToString()
    with pytest.raises(grpc.RpcError) as caught:
        next(iter(watch(request, timeout=TIMEOUT_S)))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "at most 1,024 characters, and this one has 1,025" in str(caught.value.details())


@pytest.mark.parametrize("path", [REFUSED, REFUSED_STREAM], ids=["unary", "stream"])
def test_refused_calls_are_let_go(channel: grpc.Channel, served: tuple[Served, Transport], path: str) -> None:
    """What a refused call holds is let go of with its answer, and does not wait for the garbage collector."""
    gc.disable()
    try:
        if path == REFUSED_STREAM:
            assert list(channel.stream_stream(path, None, None)(iter([b"x"]), timeout=TIMEOUT_S)) == [b"!"]
        else:
            with pytest.raises(grpc.RpcError, match="INVALID_ARGUMENT"):
                channel.unary_unary(path, None, None)(b"x", timeout=TIMEOUT_S)
        assert served[0].let_go.wait(TIMEOUT_S)
    finally:
        gc.enable()
