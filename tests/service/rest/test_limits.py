"""What bounds a request over HTTP: its length, compressed or not, its head, its time, and its token."""

import hashlib
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.servers import Serve, ServerProcess
from tests.service.rest.conftest import TIMEOUT_S
from tests.service.rest.requests import error, in_json, outputs

MIB = 2**20
PATH = "/v2/models/identity-fp32/infer"
ONES = np.ones((1, 2), np.float32)
WORDS = {"reader": "secret of reader", "operator": "secret of operator", "slow": "secret of slow"}


def connect(server: ServerProcess) -> socket.socket:
    """A connection without a client's library."""
    address = httpx.URL(server.url)
    return socket.create_connection((address.host, address.port or 0), TIMEOUT_S)


def read_response(connection: socket.socket) -> tuple[int, bytes]:
    """Status and content of a response, after which the server has closed the connection."""
    received = b""
    while piece := connection.recv(65536):
        received += piece
    head, _, content = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), content


def test_long_bodies_are_not_received(odd_rest_server: ServerProcess) -> None:
    """A body of 1 GiB is refused by what its head says: nothing of it has been sent yet."""
    with connect(odd_rest_server) as connection:
        connection.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {2**30}\r\n\r\n".encode())
        status, content = read_response(connection)
    assert status == 413
    assert content == b'{"error":"Received message larger than max (1073741824 vs. 1048576 bytes)"}'


def test_endless_bodies_are_ended(odd_client: httpx.Client) -> None:
    """A body without a length is refused once it is too long, and its sender reads why."""

    def endless() -> Iterator[bytes]:
        for _ in range(64):
            yield bytes(MIB)

    status, sentence = error(odd_client.post(PATH, content=endless()))
    assert (status, sentence.partition(" (")[0]) == (413, "Received message larger than max")


@pytest.mark.parametrize(
    ("body", "encoding", "status", "words"),
    [
        (zlib.compress(bytes(64 * MIB)), "deflate", 413, "over 1048576 when decompressed"),
        (b"no gzip", "gzip", 400, "the body is not compressed by gzip"),
        (zlib.compress(bytes(1000))[:-4], "deflate", 400, "the body ends in the middle of its deflate data"),
        (b"", "gzip", 400, "the body ends in the middle of its gzip data"),
        (b"x", "br", 415, "bodies compressed by 'br' are not read here"),
    ],
    ids=["bomb", "no gzip", "cut", "empty", "brotli"],
)
def test_wrong_compression_is_refused(
    odd_client: httpx.Client, body: bytes, encoding: str, status: int, words: str
) -> None:
    """What becomes too long, or cannot be decompressed, is refused."""
    told = error(odd_client.post(PATH, content=body, headers={"Content-Encoding": encoding}))
    assert told[0] == status
    assert words in told[1]


def test_long_json_wants_bytes(client: httpx.Client) -> None:
    """JSON of more than 8 MiB is refused: tensors of that size go as bytes."""
    status, sentence = error(client.post("/v2/models/mnist-tiny/infer", content=b" " * (9 * MIB)))
    assert (status, "binary_data_size" in sentence) == (413, True)


def test_long_heads_are_refused(odd_rest_server: ServerProcess) -> None:
    """A head that does not end is refused once it is too long."""
    with connect(odd_rest_server) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nX: ")
        status = 0
        while not status:
            connection.sendall(b"x" * 65536)
            connection.settimeout(0.05)
            try:
                status = int(connection.recv(65536).split()[1])
            except TimeoutError:
                continue
    assert status == 431


def test_what_is_no_http(odd_rest_server: ServerProcess) -> None:
    """Bytes that are no HTTP are 400, with a sentence."""
    with connect(odd_rest_server) as connection:
        connection.sendall(b"\x16\x03\x01 no HTTP\r\n\r\n")
        assert read_response(connection) == (400, b'{"error":"Invalid HTTP request received."}')


def test_deadlines_are_kept(odd_models_dir: Path) -> None:
    """A request is 504 once its caller's time is over, or its time in the queue."""
    options = ("--models", "identity-fp32", "--max-queue-delay-us", "60000000", "--http-port", "0")
    with (
        ServerProcess(odd_models_dir, *options) as server,
        httpx.Client(base_url=server.url, timeout=TIMEOUT_S) as client,
    ):
        late = client.post(PATH, json=in_json(ONES), headers={"grpc-timeout": "20m"})
        assert error(late)[0] == 504
        assert error(client.post(PATH, json=in_json(ONES, parameters={"timeout": 20_000})))[0] == 504
        late = client.post(PATH, json=in_json(ONES), headers={"x-envoy-expected-rq-timeout-ms": "20"})
        assert error(late)[0] == 504
        wrong = client.post(PATH, json=in_json(ONES), headers={"grpc-timeout": "soon"})
        assert error(wrong) == (400, "'soon' is no grpc-timeout: up to 8 digits and one of H, M, S, m, u, n")


def entry(name: str, rights: str, more: str = "") -> str:
    """An entry of a tokens file."""
    digest = hashlib.sha256(WORDS[name].encode()).hexdigest()
    return f'[[tokens]]\nname = "{name}"\nsha256 = "{digest}"\nrights = {rights}\n{more}\n'


@pytest.fixture(scope="module")
def guarded(serve: Serve, odd_models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> ServerProcess:
    """A server with three tokens."""
    file = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    slow = entry("slow", '["infer"]', "requests_per_s = 0.001")
    file.write_text(entry("reader", '["infer"]') + entry("operator", '["metrics"]') + slow)
    return serve(odd_models_dir, "--models", "identity-fp32", "--tokens-file", str(file), "--http-port", "0")


@pytest.fixture
def guarded_client(guarded: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=guarded.url, timeout=TIMEOUT_S) as client:
        yield client


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {WORDS[name]}"}


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", PATH), ("GET", "/v2"), ("GET", "/v1/models"), ("POST", "/v2/repository/models/x/unload"), ("GET", "/no")],
)
def test_requests_need_a_token(guarded_client: httpx.Client, method: str, path: str) -> None:
    """Without one of the tokens nothing is answered, not even that a path is unknown."""
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        response = guarded_client.request(method, path, headers=headers)
        assert error(response)[0] == 401
        assert response.headers["www-authenticate"] == "Bearer"


def test_tokens_allow_their_rights(guarded_client: httpx.Client) -> None:
    """A token may do what its rights say, as over gRPC; health and the document need none."""
    body = in_json(ONES)
    assert outputs(guarded_client.post(PATH, json=body, headers=bearer("reader")))["y"] == [1, 1]
    assert error(guarded_client.post(PATH, json=body, headers=bearer("operator")))[0] == 403
    assert error(guarded_client.get("/v2/models/stats", headers=bearer("reader")))[0] == 403
    assert guarded_client.get("/v2/models/stats", headers=bearer("operator")).status_code == 200
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/identity-fp32/ready", "/openapi.json"):
        assert guarded_client.get(path).status_code == 200


def test_limit_of_a_token(guarded_client: httpx.Client) -> None:
    """Beyond its requests a second a token is 429, and told when to try again."""
    responses = [guarded_client.post(PATH, json=in_json(ONES), headers=bearer("slow")) for _ in range(2)]
    assert error(responses[1])[0] == 429
    assert 900 < int(responses[1].headers["retry-after"]) <= 1000


def test_refused_senders_read_why(guarded_client: httpx.Client) -> None:
    """A long body without a token is refused before it is read, and its sender reads the response."""
    assert error(guarded_client.post(PATH, content=bytes(8 * MIB)))[0] == 401
