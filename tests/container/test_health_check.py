"""``python -m service.health_check`` against the real server: what a container's HEALTHCHECK runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from service.health_check import address
from service.settings import Settings
from tests.servers import ROOT, ServerProcess

ANY_IPV4 = "0.0.0.0"  # noqa: S104 - nothing here listens on it


def health_check(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """The exit code, and all that was written."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-m", "service.health_check", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        cwd=ROOT,
        env=os.environ | (env or {}),
        check=False,
    )
    return ended.returncode, ended.stdout


def test_only_serving_is_healthy(odd_server: ServerProcess) -> None:
    """Exit code 0 for what is served; 1 for a model that was rejected, and for a name nobody knows."""
    where = ("--address", odd_server.address)
    assert health_check(*where) == (0, f"{odd_server.address}: SERVING\n")
    assert health_check(*where, "model/linear") == (0, f"model/linear at {odd_server.address}: SERVING\n")
    assert health_check(*where, "model/broken") == (1, f"model/broken at {odd_server.address}: NOT_SERVING\n")
    words = "NOT_FOUND nothing is known by the name 'nobody'"
    assert health_check(*where, "nobody") == (1, f"nobody at {odd_server.address}: {words}\n")


def test_addresses_come_from_the_environment(odd_server: ServerProcess) -> None:
    """The variables that set the server's address lead the check to it, even where HTTP goes through a proxy."""
    port = odd_server.address.rpartition(":")[2]
    env = {"CONVSERVE_HOST": ANY_IPV4, "convserve_port": port, "http_proxy": "http://127.0.0.1:9"}
    assert health_check(env=env) == (0, f"127.0.0.1:{port}: SERVING\n")


def test_ended_servers_are_not_healthy(odd_models_dir: Path) -> None:
    """Exit code 1 and one line, once nobody listens any more."""
    with ServerProcess(odd_models_dir) as server:
        assert health_check("--address", server.address)[0] == 0
        assert server.terminate() == 0
        code, output = health_check("--address", server.address)
    assert code == 1
    assert output.startswith(f"{server.address}: UNAVAILABLE ")
    assert len(output.splitlines()) == 1


@pytest.mark.parametrize("mutual", [False, True], ids=["tls", "mutual-tls"])
def test_tls_as_the_server_uses_it(odd_models_dir: Path, tmp_path: Path, mutual: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """The server's own certificate is trusted, whatever name it is made out to; another one is not."""
    authority = trustme.CA()
    envs = []
    for name in ("server", "stranger"):
        certificate, key = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        issued = authority.issue_cert(f"*.{name}.example")
        certificate.write_bytes(issued.cert_chain_pems[0].bytes())
        key.write_bytes(issued.private_key_pem.bytes())
        envs.append({"CONVSERVE_TLS_CERTIFICATE_FILE": str(certificate), "CONVSERVE_TLS_KEY_FILE": str(key)})
    own, other = envs
    if mutual:
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        own["CONVSERVE_TLS_CLIENT_CA_FILE"] = str(tmp_path / "ca.pem")
    with ServerProcess(odd_models_dir, transport="grpcio", env=own) as server:
        assert health_check("--address", server.address, env=own) == (0, f"{server.address}: SERVING\n")
        code, output = health_check("--address", server.address, env=other)
        assert (code, "certificate verify failed" in output) == (1, True), output
        assert health_check("--address", server.address)[0] == 1


@pytest.mark.parametrize(
    ("host", "reached_at"),
    [(ANY_IPV4, "127.0.0.1"), ("::", "[::1]"), ("[::]", "[::1]"), ("::1", "[::1]"), ("10.0.0.7", "10.0.0.7")],
)
def test_any_address_means_the_loopback(host: str, reached_at: str) -> None:
    """An address that stands for all is none to connect to; every other is taken as the server takes it."""
    assert address({"CONVSERVE_HOST": host, "CONVSERVE_PORT": "9001"}) == f"{reached_at}:9001"


def test_the_defaults_are_the_servers() -> None:
    """Without an environment, the check goes where the server listens by default."""
    assert address({}) == f"{Settings.host}:{Settings.port}"
