"""The life of the HTTP port: start, drain, workers, TLS, clients that go, and what is told of calls."""

import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import trustme

from tests import onnx_models
from tests.metrics import MeteredServer
from tests.servers import ROOT, ServerProcess, run_until_exit
from tests.service.rest.conftest import TIMEOUT_S
from tests.service.rest.requests import error, in_binary, in_json, outputs

PATH = "/v2/models/identity-fp32/infer"
ONES = np.ones((1, 2), np.float32)
ONE_MODEL = ("--models", "identity-fp32", "--http-port", "0")
FROZEN = """
import threading
from service.pb import open_inference_pb2 as pb
from service.logs import configure
from service.process.watchdog import Watchdog
from service.rest.server import HttpTransport
from service.rpc import FlushScope, ImmediateMethod, Methods, NativeTransport, TransportOptions
from service.runtime.repository import Repository

configure("json", "info")
frozen = threading.Event()
live = ImmediateMethod(pb.ServerLiveRequest, lambda _: frozen.wait())
methods = Methods({}, {"/inference.GRPCInferenceService/ServerLive": live})
options, scope = TransportOptions(2**20), FlushScope()
with (
    NativeTransport("127.0.0.1:0", methods, lambda: False, options, scope) as native,
    HttpTransport("127.0.0.1:0", methods, Repository(), options, scope) as http,
):
    with Watchdog([native.call_soon, http.call_soon], tuple, busy=threading.Event(), limit_s=1.0):
        print(http.port, flush=True)
        frozen.wait()
"""
PATIENT = ("--max-batch-rows", "64", "--max-queue-rows", "80", "--max-queue-delay-us", "60000000")


def test_port_must_be_free(odd_models_dir: Path) -> None:
    """A port that another has, or that gRPC has, ends the start with a sentence."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = run_until_exit(odd_models_dir, "--models", "identity-fp32", "--http-port", str(port))
        assert (code, f"cannot listen on 127.0.0.1:{port}" in said) == (1, True)
    code, said = run_until_exit(odd_models_dir, "--port", "8001", "--http-port", "8001")
    assert (code, "--http-port must be another than --port" in said) == (2, True)


def test_grpcio_is_served_beside(odd_models_dir: Path) -> None:
    """HTTP is the same beside the other gRPC transport."""
    with ServerProcess(odd_models_dir, *ONE_MODEL, transport="grpcio") as server:
        body, headers = in_binary(ONES)
        response = httpx.post(f"{server.url}{PATH}", content=body, headers=headers, timeout=TIMEOUT_S)
        assert np.array_equal(outputs(response)["y"], ONES)
        assert server.terminate() == 0


def test_drain_serves_and_says_so(odd_models_dir: Path) -> None:
    """From SIGTERM on readiness is 503, and calls are served until the drain delay is over; connections end."""
    options = (*ONE_MODEL, "--drain-delay-s", "2")
    with ServerProcess(odd_models_dir, *options) as server, httpx.Client(base_url=server.url) as client:
        assert client.get("/v2/health/ready").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        server.events.await_one("draining")
        while "connection" not in (response := client.get("/v2/health/ready")).headers:
            pass
        assert response.status_code == 503
        assert (response.json()["ready"], response.headers["retry-after"]) == (False, "1")
        response = client.get("/v2/health/live")
        assert (response.status_code, response.headers["connection"]) == (200, "close")
        assert outputs(client.post(PATH, json=in_json(ONES)))["y"] == [1, 1]
        assert server.process.wait(TIMEOUT_S) == 0


def test_calls_in_flight_are_answered(odd_models_dir: Path) -> None:
    """A call that waits in the queue when the server is told to end has its answer before it does."""
    with MeteredServer(odd_models_dir, *ONE_MODEL, *PATIENT) as server:
        answers: list[httpx.Response] = []

        def ask() -> None:
            answers.append(httpx.post(f"{server.url}{PATH}", json=in_json(ONES), timeout=TIMEOUT_S))

        asking = threading.Thread(target=ask)
        asking.start()
        await_queued(server, 1)
        assert server.terminate() == 0
        asking.join()
        assert outputs(answers[0])["y"] == [1, 1]


def await_queued(server: MeteredServer, rows: int) -> None:
    """Waits until so many rows wait."""
    server.await_page(lambda page: page.total("convserve_queue_rows") == rows)


@pytest.fixture
def logged(odd_models_dir: Path) -> Iterator[MeteredServer]:
    """A server that tells of each call, and lets calls wait for others."""
    with MeteredServer(odd_models_dir, *ONE_MODEL, *PATIENT, "--access-log") as server:
        yield server


def test_clients_that_go_are_noticed(logged: MeteredServer) -> None:
    """A client that hangs up has its call cancelled: it is taken out of the queue, and never run."""
    body, headers = in_binary(ONES, id="gone")
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    address = httpx.URL(logged.url)
    with socket.create_connection((address.host, address.port or 0), TIMEOUT_S) as connection:
        connection.sendall(f"POST {PATH} HTTP/1.1\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode() + body)
        await_queued(logged, 1)
    line = logged.events.await_one("access", id="gone")
    assert line["code"] == "CANCELLED"
    assert line["peer_address"].startswith("ipv4:127.0.0.1:")
    await_queued(logged, 0)


def test_calls_are_counted_and_logged(logged: MeteredServer) -> None:
    """Metrics and the access log tell of calls over HTTP as of those over gRPC."""
    headers = {"X-Request-Id": "mine"}
    with httpx.Client(base_url=logged.url, timeout=TIMEOUT_S, headers=headers) as client:
        body, more = in_binary(np.ones((64, 2), np.float32))
        assert len(outputs(client.post(PATH, content=body, headers=more))["y"]) == 64
        assert error(client.post(PATH, json={}))[0] == 400
        assert error(client.post(PATH, content=b"{"))[0] == 400
        assert client.get("/v2").status_code == 200
        page = logged.page()
        assert page.value("convserve_connections") == 1
    assert logged.events.await_one("access", code="OK", id="mine")["rows"] == 64
    logged.events.await_one("access", method="/inference.GRPCInferenceService/ServerMetadata", id="mine")
    assert page.total("convserve_requests_total", model="identity-fp32", code="OK") == 1
    assert page.total("convserve_requests_total", code="INVALID_ARGUMENT") == 2


def test_frozen_loops_end_the_process() -> None:
    """An event loop of HTTP that stands still for longer than the limit ends the process, though gRPC's goes on."""
    with subprocess.Popen(
        [sys.executable, "-c", FROZEN], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            assert process.stdout is not None
            with pytest.raises(httpx.TransportError):
                httpx.get(f"http://127.0.0.1:{process.stdout.readline().strip()}/v2/health/live", timeout=TIMEOUT_S)
            assert process.wait(TIMEOUT_S) == 70
        finally:
            process.kill()
        assert process.stderr is not None
        assert "the receiving thread has stood still" in process.stderr.read()


def test_workers_share_the_port(odd_models_dir: Path) -> None:
    """Workers serve one HTTP port, and a renewal loses no request."""
    with ServerProcess(odd_models_dir, *ONE_MODEL, "--workers", "2") as server:
        server.events.await_one("all workers are ready")
        url, renewed = server.url, threading.Event()
        failed: list[str] = []
        count = 0

        def ask() -> None:
            nonlocal count
            while not renewed.is_set():
                response = httpx.post(f"{url}{PATH}", json=in_json(ONES), timeout=TIMEOUT_S)
                count += 1
                if response.status_code != 200:
                    failed.append(response.text)

        asking = threading.Thread(target=ask)
        asking.start()
        server.process.send_signal(signal.SIGHUP)
        server.events.await_one("the workers are renewed")
        try:
            server.events.await_one("stopped", worker=0)
            server.events.await_one("stopped", worker=1)
        finally:
            renewed.set()
            asking.join()
        assert failed == []
        assert count > 0


def test_tls_is_served(tmp_path: Path) -> None:
    """With TLS files HTTP has TLS too, by the newest certificate, and clients need one where they do for gRPC."""
    authority = trustme.CA()
    issue(authority, tmp_path)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    onnx_models.two_inputs(tmp_path / "models")
    files = ("--tls-key-file", f"{tmp_path}/key.pem", "--tls-certificate-file", f"{tmp_path}/certificate.pem")
    options = (*files, "--tls-client-ca-file", f"{tmp_path}/ca.pem", "--http-port", "0")
    with ServerProcess(tmp_path / "models", *options) as server:
        context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
        url = f"{server.url.replace('127.0.0.1', 'localhost')}/v2/health/live"
        with pytest.raises(httpx.TransportError):
            httpx.get(url, verify=context)
        authority.issue_cert("client").configure_cert(context)
        assert httpx.get(url, verify=context).json() == {"live": True}
        before = served_certificate(server, context)
        issue(authority, tmp_path)
        while served_certificate(server, context) == before:
            pass
        assert httpx.get(url, verify=context).json() == {"live": True}


def issue(authority: trustme.CA, folder: Path) -> None:
    """Writes a new certificate and its key."""
    certificate = authority.issue_cert("localhost")
    for blob, name in ((certificate.private_key_pem, "key.pem"), (certificate.cert_chain_pems[0], "certificate.pem")):
        blob.write_to_path(folder / f"{name}.new")
        (folder / f"{name}.new").replace(folder / name)


def served_certificate(server: ServerProcess, context: ssl.SSLContext) -> bytes | None:
    """What a new connection is shown."""
    address = httpx.URL(server.url)
    plain = socket.create_connection((address.host, address.port or 0), TIMEOUT_S)
    with plain, context.wrap_socket(plain, server_hostname="localhost") as connection:
        return connection.getpeercert(binary_form=True)
