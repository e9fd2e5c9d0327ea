"""TLS, and mutual TLS, on both transports."""

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
