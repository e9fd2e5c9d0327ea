"""``convserve health``: is the server serving? Asked through the gRPC health protocol, for probes.

It reads the environment that the server reads, by itself: the server's settings would more than double
the time it takes to start, and a container's HEALTHCHECK starts it again and again.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

PROG = f"python -m {__package__}.health_check"
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = "8001"
ANY_HOST = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - how the server is told, not where we listen


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Asks once. Returns 0 where the answer is SERVING, 1 where it is another or none comes, 2 for bad arguments."""
    environment = _environment()
    args = make_parser(prog).parse_args(arguments)
    try:
        serving, answer = _ask(args.address, args.name, args.timeout_s, environment)
    except (OSError, ValueError) as error:
        serving, answer = False, str(error)
    subject = f"{args.name} at {args.address}" if args.name else args.address
    (sys.stdout if serving else sys.stderr).write(f"{subject}: {answer}\n")
    return 0 if serving else 1


def address(environment: Mapping[str, str]) -> str:
    """Where a server with this environment can be reached from its own machine, as ``host:port``."""
    host = environment.get("CONVSERVE_HOST", DEFAULT_HOST)
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"{ANY_HOST.get(host, host)}:{environment.get('CONVSERVE_PORT', DEFAULT_PORT)}"


def _environment() -> Mapping[str, str]:
    """Ours, with names as the server compares them."""
    return {name.upper(): value for name, value in os.environ.items()}


def _ask(target: str, name: str, timeout_s: float, environment: Mapping[str, str]) -> tuple[bool, str]:
    """Whether the server is serving, and what it said; raises OSError or ValueError where TLS cannot be set up."""
    with _channel(target, timeout_s, environment) as channel:
        try:
            request = health_pb2.HealthCheckRequest(service=name)
            token = environment.get("CONVSERVE_TOKEN")
            metadata = (("authorization", f"Bearer {token}"),) if token else ()
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            return False, f"{error.code().name} {error.details()}".rstrip()
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return answer.status == health_pb2.HealthCheckResponse.SERVING, status


def _channel(target: str, timeout_s: float, environment: Mapping[str, str]) -> grpc.Channel:
    direct = ("grpc.enable_http_proxy", 0)  # the server is here; a proxy set for the container does not lead to it
    certificate_file = environment.get("CONVSERVE_TLS_CERTIFICATE_FILE")
    key_file = environment.get("CONVSERVE_TLS_KEY_FILE")
    if certificate_file is None or key_file is None:
        return grpc.insecure_channel(target, options=[direct])
    certificate, key = Path(certificate_file).read_bytes(), Path(key_file).read_bytes()
    # The server's own certificate is all that is trusted. It is also shown, to a server that asks for one.
    credentials = grpc.ssl_channel_credentials(certificate, key, certificate)
    name = _certified_name(target, certificate_file, timeout_s)
    return grpc.secure_channel(target, credentials, options=[direct, ("grpc.ssl_target_name_override", name)])


def _certified_name(target: str, certificate_file: str, timeout_s: float) -> str:
    """A name the server's certificate is made out to, which need not be the address; raises OSError or ValueError."""
    import socket
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the name is what we are here to learn; the certificate is the one we have
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(certificate_file)
    context.set_alpn_protocols(["h2"])
    host, _, port = target.rpartition(":")
    with (
        socket.create_connection((host.strip("[]"), int(port)), timeout_s) as connection,
        context.wrap_socket(connection) as secured,
    ):
        names = [str(pair[1]) for pair in (secured.getpeercert() or {}).get("subjectAltName", ())]
    if not names:
        raise ssl.SSLError(f"{certificate_file} has no subjectAltName, without which gRPC takes no certificate")
    return names[0].replace("*", "health-check", 1)


def make_parser(prog: str) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Ask a server through the gRPC health protocol whether it is serving.",
        epilog="TLS is used where CONVSERVE_TLS_CERTIFICATE_FILE and CONVSERVE_TLS_KEY_FILE are set, as they are for "
        "the server. CONVSERVE_TOKEN is sent as the bearer token. "
        "Exit codes: 0 serving; 1 not serving, unknown name, or no answer; 2 wrong arguments.",
    )
    parser.add_argument(
        "name",
        nargs="?",
        default="",
        metavar="NAME",
        help="what to ask for: a gRPC service, or model/NAME (default: the server)",
    )
    here = address(_environment())
    parser.add_argument(
        "--address",
        default=here,
        metavar="HOST:PORT",
        help=f"where the server listens (env CONVSERVE_HOST and CONVSERVE_PORT, now: {here})".replace("%", "%%"),
    )
    parser.add_argument(
        "--timeout-s", type=float, default=3.0, metavar="S", help="how long to wait for the answer (default: 3)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
