"""TLS, and mutual TLS, on both transports."""

import socket
import ssl
import warnings
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from service.pb import open_inference_pb2 as pb
from tests import onnx_models
from tests.servers import ServerProcess, run_until_exit

TIMEOUT_S = 20


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module", params=["native", "grpcio"])
def tls_server(
    request: pytest.FixtureRequest, authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """Asks its clients for a certificate."""
    folder = tmp_path_factory.mktemp("tls")
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(folder / "certificate.pem", append=True)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    onnx_models.two_inputs(folder / "models")
    options = [
        *("--tls-key-file", f"{folder / 'key.pem'}", "--tls-certificate-file", f"{folder / 'certificate.pem'}"),
        *("--tls-client-ca-file", f"{folder / 'ca.pem'}"),
    ]
    with ServerProcess(Path(folder / "models"), *options, transport=request.param) as process:
        yield process


@pytest.fixture(params=["native", "grpcio"])
def plain_tls(
    request: pytest.FixtureRequest, authority: trustme.CA, tmp_path: Path
) -> Iterator[tuple[ServerProcess, Path]]:
    """A server with TLS, and the folder of its files."""
    issue(authority, tmp_path)
    onnx_models.two_inputs(tmp_path / "models")
    files = ("--tls-key-file", f"{tmp_path}/key.pem", "--tls-certificate-file", f"{tmp_path}/certificate.pem")
    with ServerProcess(tmp_path / "models", *files, transport=request.param) as process:
        yield process, tmp_path


def issue(authority: trustme.CA, folder: Path) -> None:
    """Writes a new certificate and its key."""
    certificate = authority.issue_cert("localhost")
    for blob, name in ((certificate.private_key_pem, "key.pem"), (certificate.cert_chain_pems[0], "certificate.pem")):
        blob.write_to_path(folder / f"{name}.new")
        (folder / f"{name}.new").replace(folder / name)


def shake_hands(server: ServerProcess, authority: trustme.CA, *protocols: str) -> tuple[str | None, bytes]:
    """The protocol that was agreed on and the server's certificate; raises ssl.SSLError for an alert."""
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    if protocols:
        context.set_alpn_protocols(list(protocols))
    host, _, port = server.address.rpartition(":")
    plain = socket.create_connection((host, int(port)), TIMEOUT_S)
    with plain, context.wrap_socket(plain, server_hostname="localhost") as connection:
        certificate = connection.getpeercert(binary_form=True)
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        if not connection.recv(9):
            raise ConnectionResetError
        assert certificate is not None
        return connection.selected_alpn_protocol(), certificate


def test_alpn_is_required(plain_tls: tuple[ServerProcess, Path], authority: trustme.CA) -> None:
    """A client that asks for HTTP/2 is served; one that names no protocol, or another, is not."""
    server, _ = plain_tls
    assert shake_hands(server, authority, "h2")[0] == "h2"
    for protocols in ((), ("http/1.1",)):
        with pytest.raises((ConnectionError, ssl.SSLError)):
            shake_hands(server, authority, *protocols)


def test_refused_handshakes_are_logged(plain_tls: tuple[ServerProcess, Path], authority: trustme.CA) -> None:
    """A client too old is refused, natively by an alert; a hundred refusals are at most a few lines of the log."""
    server, _ = plain_tls
    native = server.transport == "native"
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.maximum_version = context.minimum_version = ssl.TLSVersion.TLSv1_1
    host, _, port = server.address.rpartition(":")
    for _ in range(100):
        with (
            socket.create_connection((host, int(port)), TIMEOUT_S) as plain,
            pytest.raises(OSError, match="alert" if native else "EOF|reset"),  # grpc-core closes, and sends none
        ):
            context.wrap_socket(plain, server_hostname="localhost")
    assert shake_hands(server, authority, "h2")[0] == "h2"
    assert server.terminate() == 0
    refused = ("TLS handshake refused", None) if native else ("standard error", "Handshake failed")
    lines = [
        event
        for event in server.events
        if event["event"] == refused[0] and (refused[1] is None or refused[1] in event["text"])
    ]
    assert 1 <= len(lines) <= 50


def test_changed_certificate_is_served(plain_tls: tuple[ServerProcess, Path], authority: trustme.CA) -> None:
    """After the files are replaced, new connections get the new certificate."""
    server, folder = plain_tls
    before = shake_hands(server, authority, "h2")[1]
    issue(authority, folder)
    while shake_hands(server, authority, "h2")[1] == before:
        pass


def is_live(server: ServerProcess, credentials: grpc.ChannelCredentials | None) -> bool:
    port = server.address.rpartition(":")[2]
    target = f"localhost:{port}"
    channel = grpc.insecure_channel(target) if credentials is None else grpc.secure_channel(target, credentials)
    with channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ServerLive",
            request_serializer=pb.ServerLiveRequest.SerializeToString,
            response_deserializer=pb.ServerLiveResponse.FromString,
        )
        return bool(call(pb.ServerLiveRequest(), timeout=TIMEOUT_S).live)


def test_a_client_of_the_authority_is_served(tls_server: ServerProcess, authority: trustme.CA) -> None:
    client = authority.issue_cert("client")
    credentials = grpc.ssl_channel_credentials(
        authority.cert_pem.bytes(), client.private_key_pem.bytes(), client.cert_chain_pems[0].bytes()
    )
    assert is_live(tls_server, credentials)


def test_clients_without_a_certificate_and_without_tls_are_not(
    tls_server: ServerProcess, authority: trustme.CA
) -> None:
    for credentials in (None, grpc.ssl_channel_credentials(authority.cert_pem.bytes())):
        with pytest.raises(grpc.RpcError) as caught:
            is_live(tls_server, credentials)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_files_that_are_no_certificate_and_no_key_are_refused_at_the_start(transport: str, tmp_path: Path) -> None:
    onnx_models.two_inputs(tmp_path / "models")
    files = ("--tls-key-file", __file__, "--tls-certificate-file", __file__)
    code, stderr = run_until_exit(tmp_path / "models", "--transport", transport, *files)
    assert code == 1
    assert "cannot start" in stderr
    assert "Traceback" not in stderr


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_password(
    authority: trustme.CA, tmp_path: Path
) -> None:
    onnx_models.two_inputs(tmp_path / "models")
    certificate = authority.issue_cert("localhost")
    key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (tmp_path / "key.pem").write_bytes(secret)
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "certificate.pem")
    files = ("--tls-key-file", f"{tmp_path}/key.pem", "--tls-certificate-file", f"{tmp_path}/certificate.pem")
    code, stderr = run_until_exit(tmp_path / "models", *files)
    assert code == 1
    assert "the TLS key is encrypted: give it without a password" in stderr
    assert "Traceback" not in stderr
