"""Streams, health and reflection, by a real client of gRPC and by one of HTTP/2."""

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from queue import Empty

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from service.rpc.call import STREAM_AHEAD
from tests.service.rpc.conftest import ECHO, LATER, STREAM, Served
from tests.service.rpc.peer import Peer, message

TIMEOUT_S = 20
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def channel(served: Served) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{served.transport.port}") as channel:
        yield channel


def plain(content: bytes) -> bytes:
    """Messages here are bytes in and bytes out."""
    return content


def test_stream_keeps_its_order(served: Served, channel: grpc.Channel) -> None:
    """Though several threads answer them in any order."""
    requests = [str(number).encode() for number in range(400)]

    done = threading.Event()

    def answer() -> None:
        while not done.is_set():
            held = []
            with contextlib.suppress(Empty):
                held.append(served.later.get(timeout=0.1))
                while len(held) < 10:
                    held.append(served.later.get_nowait())
            random.shuffle(held)
            for call in held:
                call.respond(call.payload + b"!")

    threads = [threading.Thread(target=answer) for _ in range(4)]
    for thread in threads:
        thread.start()
    answers = channel.stream_stream(STREAM, plain, plain)(iter(requests), timeout=TIMEOUT_S)
    assert list(answers) == [each + b"!" for each in requests]
    done.set()
    for thread in threads:
        thread.join()


def test_stream_survives_an_error(served: Served, peer: Peer) -> None:
    """An error in a stream is a message, and the stream goes on."""
    stream = peer.begin(STREAM)
    peer.send(stream, message(b"a") + message(b"b"), end=True)
    first, second = (served.later.get(timeout=TIMEOUT_S) for _ in range(2))
    second.respond(b"fine")
    first.fail(ValueError("not for callers"))
    (answer,) = peer.wait(stream)
    assert (answer.messages, answer.status) == ([b"!", b"fine"], 0)


def test_stream_ahead_is_held_back(served: Served, peer: Peer) -> None:
    """With so many requests in flight its window is not opened again; when they are answered, it is."""
    while not peer.seen:
        peer.receive()
    content = message(bytes(5_000))
    stream = peer.begin(STREAM)
    sent = 0
    while peer.h2.local_flow_control_window(stream) >= len(content):
        peer.h2.send_data(stream, content)
        sent += 1
    peer.h2.ping(b"12345678")
    peer.flush()
    while not any(type(event).__name__ == "PingAckReceived" for event in peer.seen):
        peer.receive()
    assert peer.h2.local_flow_control_window(stream) < len(content)
    assert served.later.qsize() == STREAM_AHEAD
    for _ in range(sent):
        served.later.get(timeout=TIMEOUT_S).respond(b"x")
    peer.send(stream, content * 100, end=True)
    for _ in range(100):
        served.later.get(timeout=TIMEOUT_S).respond(b"y")
    (answer,) = peer.wait(stream)
    assert answer.messages == [b"x"] * sent + [b"y"] * 100


def test_cancelled_stream_cancels_its_calls(served: Served, peer: Peer) -> None:
    """A stream that is cancelled cancels its calls."""
    stream = peer.begin(STREAM)
    peer.send(stream, message(b"a") + message(b"b"))
    calls = {served.later.get(timeout=TIMEOUT_S) for _ in range(2)}
    peer.h2.reset_stream(stream)
    peer.flush()
    assert {served.cancelled.get(timeout=TIMEOUT_S) for _ in range(2)} == calls
    assert peer.call(ECHO, b"next").messages == [b"next"]


def test_health_and_its_changes(served: Served, channel: grpc.Channel) -> None:
    """Health is told, and each change of it to those who watch."""
    stub = health_pb2_grpc.HealthStub(channel)
    served.transport.set_ready({"": True, "model/x": False})
    assert stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S).status == SERVING
    assert stub.Check(health_pb2.HealthCheckRequest(service="model/x"), timeout=TIMEOUT_S).status == NOT_SERVING
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="nothing"), timeout=TIMEOUT_S)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="model/x"), timeout=TIMEOUT_S)
    assert next(watch).status == NOT_SERVING
    for ready, status in ((True, SERVING), (False, NOT_SERVING)):
        served.transport.set_ready({"model/x": ready})
        assert next(watch).status == status
    watch.cancel()
    assert stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S).status == SERVING


@pytest.mark.parametrize("content", [b"", message(b"") * 2])
def test_watch_takes_one_name(peer: Peer, content: bytes) -> None:
    """A watch of nothing, or of two names, is refused."""
    stream = peer.begin("/grpc.health.v1.Health/Watch")
    peer.send(stream, content, end=True)
    (answer,) = peer.wait(stream)
    assert answer.status == 3


def test_reflection_answers_each_question(channel: grpc.Channel) -> None:
    """Reflection answers each question of a stream."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="grpc.health.v1.Health"),
        reflection_pb2.ServerReflectionRequest(file_by_filename="nothing.proto"),
    ]
    services, file, error = stub.ServerReflectionInfo(iter(asked), timeout=TIMEOUT_S)
    assert "test.Test" in {service.name for service in services.list_services_response.service}
    assert file.file_descriptor_response.file_descriptor_proto
    assert error.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def test_real_client_compresses(channel: grpc.Channel) -> None:
    """A real client may compress, and send a deadline and metadata."""
    call = channel.unary_unary(ECHO, plain, plain)
    answer = call(
        b"x" * 5000,
        timeout=TIMEOUT_S,
        metadata=(("a-key", "a value"), ("a-bin", b"\xff")),
        compression=grpc.Compression.Gzip,
    )
    assert answer == b"x" * 5000


def test_deadline_reaches_the_call(served: Served, channel: grpc.Channel) -> None:
    """A caller's deadline is known to its call."""
    future = channel.unary_unary(LATER, plain, plain).future(b"x", timeout=TIMEOUT_S)
    call = served.later.get(timeout=TIMEOUT_S)
    assert call.deadline is not None
    call.respond(b"y")
    assert future.result() == b"y"


def test_goaway_leaves_calls_in_flight(served: Served, peer: Peer) -> None:
    """Calls in flight are answered when clients are asked to go."""
    stream = peer.ask(LATER, b"x")
    call = served.later.get(timeout=TIMEOUT_S)
    retiring = threading.Thread(target=served.transport.hand_over, args=(TIMEOUT_S, lambda: False))
    retiring.start()
    while peer.gone is None:
        peer.receive()
    assert (peer.gone.error_code, peer.gone.last_stream_id) == (0, 2**31 - 1)
    call.respond(b"the answer")
    received = b""  # h2 itself reads nothing more behind a GOAWAY
    while b"grpc-status" not in received:
        received += peer.socket.recv(4096)
    assert message(b"the answer") in received
    assert peer.answers[stream].data == b""
    peer.socket.close()
    retiring.join(TIMEOUT_S)
    assert not retiring.is_alive()


def test_drain_waits_for_answers(served: Served, connect: Callable[..., Peer]) -> None:
    """The client allows 10 bytes at first; calls that come meanwhile are refused."""
    peer = connect(10)
    stream = peer.ask(LATER, b"x")
    call = served.later.get(timeout=TIMEOUT_S)
    served.transport.stop_admitting()
    late = peer.call(ECHO, b"late")
    assert (late.status, late.fields["grpc-message"]) == (14, "The server is stopping and takes no more requests.")
    drained: list[bool] = []
    draining = threading.Thread(target=lambda: drained.append(served.transport.drain(TIMEOUT_S)))
    draining.start()
    call.respond(bytes(1000))
    while len(peer.answers[stream].data) < 10:
        peer.receive(acknowledge=False)
    assert not drained
    peer.h2.increment_flow_control_window(2000, stream)
    peer.flush()
    (answer,) = peer.wait(stream)
    draining.join(TIMEOUT_S)
    assert drained == [True]
    assert answer.messages == [bytes(1000)]
    assert served.transport.drain(0.0)
