"""What can be said of a front: its servers, its door, what callers must show, how much they may ask."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..options import Field, checked

ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):(?P<port>\d{1,5})")


@dataclass(frozen=True)
class Address:
    """A host, without brackets, and a TCP port."""

    host: str
    port: int

    @property
    def is_number(self) -> bool:
        """Whether the host is an IP address and not a name."""
        return ":" in self.host or re.fullmatch(r"[\d.]+", self.host) is not None


def parse_address(text: str) -> Address:
    """``HOST:PORT``, IPv6 in brackets; raises ValueError."""
    found = ADDRESS.fullmatch(text.strip())
    if not found or not 0 < int(found["port"]) <= 65535:
        raise ValueError(f"'{text}' is not HOST:PORT, such as 10.0.0.5:8001 or [fd00::5]:8001")
    return Address(found["host"].strip("[]"), int(found["port"]))


def parse_addresses(text: str) -> tuple[Address, ...]:
    """Addresses separated by commas, each once; raises ValueError."""
    found = tuple(parse_address(part) for part in text.split(",") if part.strip())
    if len(set(found)) < len(found):
        raise ValueError("names an address twice")
    return found


PARSERS: Mapping[str, Callable[[str], object]] = {
    "hosts": checked(parse_addresses),
    "http_hosts": checked(parse_addresses),
    "listen": checked(parse_address),
    "admin": checked(parse_address),
}
"""What makes more of an option's text than its type says."""


@dataclass(frozen=True)
class FrontSettings:
    """Write Envoy's configuration for one address before several servers, to standard output.

    Every option can also be given as an environment variable, CONVSERVE_FRONT_ and its name in capitals.
    """

    hosts: str = ""
    """The servers' gRPC addresses, HOST:PORT separated by commas. A name that stands for several addresses, such as a
    headless service of Kubernetes, is all of them."""
    http_hosts: str = ""
    """The same servers' HTTP addresses; without them only gRPC is served."""
    listen: str = "127.0.0.1:8080"
    """Where callers reach the front, gRPC and HTTP alike; 0.0.0.0:8080 for all of IPv4."""
    admin: str = ""
    """HOST:PORT of Envoy's own page, with its metrics at /stats/prometheus. Whoever reaches it can stop Envoy; without
    the option there is none."""
    drain_delay_s: float = Field(default=2.0, ge=0.4, le=3600)
    """The servers' --drain-delay-s, in seconds; health is asked four times in it, so that none ends unnoticed."""
    health_name: str = ""
    """What health is asked for: model/NAME, or a gRPC service; empty: the server as a whole."""
    retries: int = Field(default=3, ge=0, le=10)
    """How often a call that a server did not answer is repeated, each time on another server."""
    retry_body_mib: int = Field(default=8, ge=1, le=2047)
    """Calls up to this size are kept until they are answered, to be repeated; larger ones get one try. In MiB."""
    max_connections: int = Field(default=20_000, ge=1, le=10_000_000)
    """Most connections of callers; more are closed at once."""
    rate: int = Field(default=0, ge=0, le=1_000_000_000)
    """Most calls each second from all callers; more are refused with RESOURCE_EXHAUSTED, over HTTP 429. 0: no limit."""
    caller_rate: int = Field(default=0, ge=0, le=1_000_000_000)
    """Most calls each second from one address; 0: no limit. Callers behind one address share it."""
    tokens: Literal["pass", "require"] = "pass"
    """The callers' bearer tokens are verified by the servers (--tokens-file). pass: every call goes there; require:
    calls without any token are refused here, except health and readiness."""
    jwt_issuer: str = ""
    """Let in calls with a JWT of this issuer only, except health and readiness. It is verified here, not passed on."""
    jwt_audience: str = ""
    """The audiences of which a JWT must name one, separated by commas; empty: any."""
    jwt_keys: str = ""
    """The issuer's keys (JWKS): a file on Envoy's machine, or an https:// address."""
    server_token_file: Path | None = None
    """With jwt_issuer: a file on Envoy's machine with the token that the front shows to the servers for its callers, in
    one line without an end."""
    tls_certificate_file: Path | None = None
    """Serve TLS with this PEM certificate chain, a file on Envoy's machine."""
    tls_key_file: Path | None = None
    """The PEM private key of the certificate."""
    tls_client_ca_file: Path | None = None
    """Accept only clients with a certificate of this authority (mutual TLS)."""
    server_tls_ca_file: Path | None = None
    """Speak TLS with the servers, whose certificates are of this authority."""
    server_tls_name: str = ""
    """The name in the servers' certificates."""
    system_ca_file: Path = Path("/etc/ssl/certs/ca-certificates.crt")
    """The authorities that are trusted where jwt_keys is an https:// address."""
    access_log: Literal["off", "failures", "all"] = "failures"
    """Log calls to standard output, a line of JSON each: none, those that failed, or all."""

    given: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not self.servers:
            raise ValueError("--hosts is needed: HOST:PORT of each server, separated by commas")
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            raise ValueError("TLS needs both --tls-certificate-file and --tls-key-file")
        if self.tls_client_ca_file is not None and self.tls_certificate_file is None:
            raise ValueError("--tls-client-ca-file needs --tls-certificate-file and --tls-key-file")
        if (self.server_tls_ca_file is None) != (not self.server_tls_name):
            raise ValueError("TLS towards the servers needs both --server-tls-ca-file and --server-tls-name")
        self._check_jwt()

    def _check_jwt(self) -> None:
        if bool(self.jwt_issuer) != bool(self.jwt_keys):
            raise ValueError("JWT needs both --jwt-issuer and --jwt-keys")
        if self.jwt_audience and not self.jwt_issuer:
            raise ValueError("--jwt-audience needs --jwt-issuer and --jwt-keys")
        if self.jwt_keys.startswith("http://"):
            raise ValueError("--jwt-keys over http:// could be forged on the way; use https://, or a file")
        if self.jwt_issuer and self.tokens == "require":
            raise ValueError("--tokens require and --jwt-issuer both claim the callers' authorization; choose one")
        if self.server_token_file is not None and not self.jwt_issuer:
            raise ValueError("--server-token-file needs --jwt-issuer, or the front would lend its token to all callers")

    @property
    def servers(self) -> tuple[Address, ...]:
        """The gRPC addresses."""
        return parse_addresses(self.hosts)

    @property
    def http_servers(self) -> tuple[Address, ...]:
        """The HTTP addresses."""
        return parse_addresses(self.http_hosts)

    @property
    def audiences(self) -> tuple[str, ...]:
        """The audiences of a JWT."""
        return tuple(part.strip() for part in self.jwt_audience.split(",") if part.strip())
