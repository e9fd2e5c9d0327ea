"""Servers that fail, one way at a time: what the client sends, repeats, gives up, and says."""

import asyncio
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import trustme

from service.client import (
    AnswerLate,
    AsyncClient,
    Classification,
    Client,
    ClientError,
    ImageError,
    LimitReached,
    ModelNotFound,
    RequestRefused,
    ServerFailure,
    ServerUnavailable,
)
from service.pb import image_classifier_pb2 as pb
from tests.client.conftest import ScriptedServer, echo

Answer = Callable[[pb.ClassifyRequest, Any], pb.ClassifyResponse]


def failing(code: grpc.StatusCode, times: int, pushback_ms: int | None = None) -> Answer:
    """Fail the first calls with this code, then answer; ``pushback_ms`` is when they may come again."""
    left = iter(range(times))

    def classify(request: pb.ClassifyRequest, context: Any) -> pb.ClassifyResponse:
        if next(left, None) is not None:
            if pushback_ms is not None:
                context.set_trailing_metadata((("grpc-retry-pushback-ms", str(pushback_ms)),))
            context.abort(code, "as the test says.")
        return echo(request, context)

    return classify


def sizes(results: list[Any]) -> list[int]:
    """What echo has answered."""
    return [result.classes[0].index for result in results]


def test_an_unavailable_server_is_asked_again(scripted: ScriptedServer) -> None:
    """Four refusals, and the fifth attempt of the one call is answered."""
    scripted.classify = failing(grpc.StatusCode.UNAVAILABLE, 4)
    with Client(scripted.address) as client:
        assert sizes(client.classify(b"12345", model="any")) == [5]
    assert len(scripted.requests) == 5


def test_full_queue_is_asked_again(scripted: ScriptedServer) -> None:
    """A call that is told when the queue has room is repeated then."""
    scripted.classify = failing(grpc.StatusCode.RESOURCE_EXHAUSTED, 4, pushback_ms=20)
    with Client(scripted.address) as client:
        assert sizes(client.classify(b"12345", model="any")) == [5]
    assert len(scripted.requests) == 5


def test_exceeded_limit_is_not_asked_again(scripted: ScriptedServer) -> None:
    """A call that is told never to come again is not repeated."""
    scripted.classify = failing(grpc.StatusCode.RESOURCE_EXHAUSTED, 1, pushback_ms=-1)
    with Client(scripted.address) as client, pytest.raises(LimitReached, match="as the test says"):
        client.classify(b"12345", model="any")
    assert len(scripted.requests) == 1


def test_a_large_call_is_repeated_too(scripted: ScriptedServer) -> None:
    """By default gRPC keeps no more than 256 KiB for another attempt."""
    scripted.classify = failing(grpc.StatusCode.UNAVAILABLE, 1)
    with Client(scripted.address) as client:
        assert sizes(client.classify(bytes(2**20), model="any")) == [2**20]
    assert len(scripted.requests) == 2


def test_attempts_end(scripted: ScriptedServer) -> None:
    scripted.classify = failing(grpc.StatusCode.UNAVAILABLE, 99)
    with Client(scripted.address) as client, pytest.raises(ServerUnavailable, match="as the test says"):
        client.classify(b"12345", model="any")
    assert len(scripted.requests) == 5


def test_restarted_servers_are_found() -> None:
    """A server that starts again is found.

    It hangs up on the first attempt, and its successor on the same port answers the call.
    """
    script = ScriptedServer()
    with ThreadPoolExecutor(4) as threads, socket.create_server(("127.0.0.1", 0)) as leaving:
        address = f"127.0.0.1:{leaving.getsockname()[1]}"
        with Client(address) as client:
            answers = threads.submit(client.classify, b"12345", model="any")
            leaving.accept()[0].close()
            leaving.close()
            server = grpc.server(threads)
            server.add_generic_rpc_handlers((script.handlers(),))
            server.add_insecure_port(address)
            server.start()
            assert sizes(answers.result(30)) == [5]
            server.stop(0).wait()


def test_nobody_at_the_address(nobody: str) -> None:
    with Client(nobody) as client, pytest.raises(ServerUnavailable) as caught:
        client.list_models()
    assert str(caught.value).startswith(f"no server answers at {nobody} (")
    assert "convserve serve" in str(caught.value)
    cause = caught.value.__cause__
    assert isinstance(cause, grpc.RpcError)
    assert cause.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.NOT_FOUND, ModelNotFound),
        (grpc.StatusCode.INVALID_ARGUMENT, RequestRefused),
        (grpc.StatusCode.FAILED_PRECONDITION, RequestRefused),
        (grpc.StatusCode.UNAUTHENTICATED, RequestRefused),
        (grpc.StatusCode.INTERNAL, ServerFailure),
        (grpc.StatusCode.DATA_LOSS, ServerFailure),
    ],
    ids=lambda value: value.name if isinstance(value, grpc.StatusCode) else value.__name__,
)
def test_no_other_failure_is_asked_again(
    scripted: ScriptedServer, code: grpc.StatusCode, kind: type[ClientError]
) -> None:
    scripted.classify = failing(code, 1)
    with Client(scripted.address) as client, pytest.raises(kind, match="as the test says") as caught:
        client.classify(b"12345", model="any")
    assert type(caught.value) is kind
    assert scripted.address in str(caught.value)
    assert len(scripted.requests) == 1


def test_late_answers_are_given_up(scripted: ScriptedServer) -> None:
    """An answer that does not come in time is given up."""
    released = threading.Event()

    def wait(request: pb.ClassifyRequest, context: Any) -> pb.ClassifyResponse:
        released.wait(30)
        return echo(request, context)

    scripted.classify = wait
    with Client(scripted.address, timeout_s=0.3) as client, pytest.raises(AnswerLate, match=r"within 0\.3 s"):
        client.classify(b"12345", model="any")
    released.set()


def test_a_server_of_another_kind() -> None:
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with Client(f"127.0.0.1:{port}") as client, pytest.raises(RequestRefused, match="does not know the call"):
            client.list_models()
        server.stop(0).wait()


def test_answers_of_another_length(scripted: ScriptedServer) -> None:
    """Answers that do not fit the question are a failure of the server."""
    scripted.classify = lambda _request, _context: pb.ClassifyResponse(results=[pb.ImageResult()])
    with Client(scripted.address) as client, pytest.raises(ServerFailure, match="1 results for 2 images"):
        client.classify([b"1", b"2"], model="any")


def test_unknown_codes_of_pictures(scripted: ScriptedServer) -> None:
    """A code of a picture that is not known counts as UNKNOWN."""
    scripted.classify = lambda _request, _context: pb.ClassifyResponse(
        results=[pb.ImageResult(error=pb.ImageError(code=77, message="new"))]
    )
    with Client(scripted.address) as client:
        assert client.classify(b"1", model="any") == [ImageError("UNKNOWN", "new")]


def test_calls_are_bounded(scripted: ScriptedServer) -> None:
    """Calls are bounded in images and in bytes.

    Eight MiB a call; a picture above that goes alone; nothing is reordered.
    """
    mib = 2**20
    pictures = [bytes(size) for size in (1, 2, 3, 4, 5 * mib, 4 * mib, 9 * mib, 6, 7)]
    with Client(scripted.address, max_call_images=3, calls_in_flight=1) as client:
        results = client.classify(pictures, model="any")
    assert sizes(results) == [len(picture) for picture in pictures]
    assert [[len(image.encoded) for image in request.images] for request in scripted.requests] == [
        [1, 2, 3],
        [4, 5 * mib],
        [4 * mib],
        [9 * mib],
        [6, 7],
    ]


def test_small_pictures_fit_small_messages(scripted: ScriptedServer) -> None:
    """Many small pictures fit a small message. What a message holds beside the bytes of its pictures is counted."""
    with Client(scripted.address, max_message_mib=1, max_call_images=10**6) as client:
        results = client.classify([np.zeros((3, 3), np.uint8)] * 50_000, model="any")
    assert sizes(results) == [9] * 50_000
    assert all(request.ByteSize() <= 2**20 for request in scripted.requests)
    assert len(scripted.requests) == 2


def test_large_messages_are_taken(scripted: ScriptedServer) -> None:
    """Messages of more than gRPC's four MiB are taken.

    In both directions: sixty MiB there, eight MiB of logits back.
    """
    logits = [1.0] * (2 * 2**20)
    scripted.classify = lambda request, _context: pb.ClassifyResponse(
        results=[pb.ImageResult(classification=pb.Classification(logits=logits)) for _ in request.images]
    )
    with Client(scripted.address) as client:
        (result,) = client.classify(bytes(60 * 2**20), model="any")
    assert isinstance(result, Classification)
    assert len(result.logits) == len(logits)


def meeting(scripted: ScriptedServer, parties: int) -> threading.Barrier:
    """Let no call be answered before so many of them are there."""
    barrier = threading.Barrier(parties)

    def wait(request: pb.ClassifyRequest, context: Any) -> pb.ClassifyResponse:
        barrier.wait(30)
        return echo(request, context)

    scripted.classify = wait
    return barrier


def test_several_calls_at_once(scripted: ScriptedServer) -> None:
    """Several calls are under way at once."""
    barrier = meeting(scripted, 4)
    with Client(scripted.address, max_call_images=1, calls_in_flight=4) as client:
        results = client.classify([bytes(size) for size in range(1, 9)], model="any")
    assert sizes(results) == list(range(1, 9))
    assert not barrier.broken


def test_several_asynchronous_calls_at_once(scripted: ScriptedServer) -> None:
    """Several calls of the asynchronous client are under way at once."""
    meeting(scripted, 4)

    async def ask() -> list[Any]:
        async with AsyncClient(scripted.address, max_call_images=1, calls_in_flight=4) as client:
            return list(await client.classify([bytes(size) for size in range(1, 9)], model="any"))

    assert sizes(asyncio.run(ask())) == list(range(1, 9))


def abandoned(scripted: ScriptedServer) -> threading.Event:
    """Fail the first call once the second is there; tell when the second has been given up."""
    second_came, given_up = threading.Event(), threading.Event()

    def classify(request: pb.ClassifyRequest, context: Any) -> pb.ClassifyResponse:
        if len(request.images[0].encoded) == 1:
            second_came.wait(30)
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first is wrong")
        context.add_callback(given_up.set)
        second_came.set()
        given_up.wait(30)
        return echo(request, context)

    scripted.classify = classify
    return given_up


def test_failed_calls_end_the_others(scripted: ScriptedServer) -> None:
    """One failed call gives up the others. The server learns at once that nobody waits for the second call."""
    given_up = abandoned(scripted)
    with Client(scripted.address, max_call_images=1) as client:
        with pytest.raises(RequestRefused, match="the first is wrong"):
            client.classify([b"1", b"22"], model="any")
        assert given_up.wait(30)


def test_failed_asynchronous_calls_end_the_others(scripted: ScriptedServer) -> None:
    """One failed call of the asynchronous client gives up the others."""
    given_up = abandoned(scripted)

    async def ask() -> None:
        async with AsyncClient(scripted.address, max_call_images=1) as client:
            with pytest.raises(RequestRefused, match="the first is wrong"):
                await client.classify([b"1", b"22"], model="any")
            assert await asyncio.to_thread(given_up.wait, 30)

    asyncio.run(ask())


def test_cancelled_tasks_end_their_calls(scripted: ScriptedServer) -> None:
    """A cancelled task gives up its calls."""
    given_up = threading.Event()

    def classify(request: pb.ClassifyRequest, context: Any) -> pb.ClassifyResponse:
        context.add_callback(given_up.set)
        given_up.wait(30)
        return echo(request, context)

    scripted.classify = classify

    async def ask() -> None:
        async with AsyncClient(scripted.address) as client:
            task = asyncio.create_task(client.classify(b"1", model="any"))
            assert await asyncio.to_thread(scripted.arrived.wait, 30)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(given_up.wait, 30)

    asyncio.run(ask())


@pytest.mark.parametrize("name", ["timeout_s", "max_message_mib", "max_call_images", "calls_in_flight"])
def test_numbers_must_be_above_zero(name: str) -> None:
    settings: dict[str, Any] = {name: 0}
    with pytest.raises(ValueError, match=f"{name} must be a number above 0, not 0"):
        Client(**settings)


@pytest.mark.parametrize(
    "target", ["", "localhost", "127.0.0.1:", ":8001", "127.0.0.1:99999", "127.0.0.1:0", "http://127.0.0.1:8001"]
)
def test_an_address_names_host_and_port(target: str) -> None:
    """Where gRPC would guess, and tell of a port that nobody has named."""
    with pytest.raises(ValueError, match=f"expected an address such as .*, not '{target}'"):
        Client(target)


def test_unix_sockets_are_reached(tmp_path: Path) -> None:
    """A server behind a Unix socket is reached."""
    script = ScriptedServer()
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        server.add_generic_rpc_handlers((script.handlers(),))
        server.add_insecure_port(f"unix:{tmp_path / 'socket'}")
        server.start()
        with Client(f"unix:{tmp_path / 'socket'}") as client:
            assert sizes(client.classify(b"12345", model="any")) == [5]
        server.stop(0).wait()


def test_top_k_is_positive(scripted: ScriptedServer) -> None:
    """The number of classes asked for must be one or more."""
    with Client(scripted.address) as client, pytest.raises(ValueError, match="top_k must be 1 or more, not 0"):
        client.classify(b"1", model="any", top_k=0)


def test_unreadable_certificates_are_named(tmp_path: Path) -> None:
    """Certificates that cannot be read are named."""
    with pytest.raises(ClientError, match=r"gone\.pem' cannot be read: No such file"):
        Client(tls=tmp_path / "gone.pem")
    other = tmp_path / "other.pem"
    other.write_text("no certificate")
    with pytest.raises(ClientError, match=r"other\.pem' holds no certificate: expected a PEM file"):
        Client(tls=other)


def test_tls_with_an_own_authority(scripted: ScriptedServer, tmp_path: Path) -> None:
    """TLS works with an authority of one's own.

    The server proves itself with a certificate for 127.0.0.1; without trust in it there is no answer.
    """
    authority = trustme.CA()
    certificate = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(certificate)
    own = authority.issue_cert("127.0.0.1")
    credentials = grpc.ssl_server_credentials([(own.private_key_pem.bytes(), own.cert_chain_pems[0].bytes())])
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        server.add_generic_rpc_handlers((scripted.handlers(),))
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        target = f"127.0.0.1:{port}"
        for trusting in (certificate, str(certificate), grpc.ssl_channel_credentials(certificate.read_bytes())):
            with Client(target, tls=trusting) as client:
                assert sizes(client.classify(b"12345", model="any")) == [5]

        async def ask() -> list[Any]:
            async with AsyncClient(target, tls=certificate) as client:
                return list(await client.classify(b"12345", model="any"))

        assert sizes(asyncio.run(ask())) == [5]
        for trust in (True, False):
            with Client(target, tls=trust) as client, pytest.raises(ServerUnavailable):
                client.list_models()
        server.stop(0).wait()
