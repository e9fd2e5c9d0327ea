"""The cases over sockets, against both transports.

grpc-core is not ours to mend: where it does otherwise, what is held is that it goes on to serve.
"""

import socket
from pathlib import Path

import pytest

from service.http2 import frames
from tests.conformance.cases import AFTER, CASES, FOLLOWING, Case, request
from tests.conformance.outcome import Outcome, read, served
from tests.servers import ServerProcess

TIMEOUT_S = 20.0
DEVIATIONS = frozenset(Path(__file__).with_name("grpc_core_deviations.txt").read_text().splitlines())
"""Cases in which grpc-core (grpcio 1.81) does otherwise: it tolerates most of what section 8 calls malformed."""


def converse(address: str, wire: bytes) -> Outcome:
    """Sends the bytes, and reads until the request and the ping at their end are answered, or no more comes."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), TIMEOUT_S) as connection:
        received, closed = b"", False
        try:
            connection.sendall(wire)
            while True:
                part = connection.recv(65_536)
                if not part:
                    closed = True
                    break
                received += part
                outcome = read(received)
                if b"finished" in outcome.pings and (AFTER in outcome.grpc_status or AFTER in outcome.resets):
                    break
        except (ConnectionError, BrokenPipeError):
            closed = True
    return read(received, closed=closed)


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_transport_does_what_is_asked(server: ServerProcess, case: Case) -> None:
    """Each case ends as its section says, and a connection that must live serves the request that follows."""
    outcome = converse(server.address, case.first + case.wire + FOLLOWING)
    if server.transport == "grpcio" and case.id in DEVIATIONS:
        first = frames.PREFACE + frames.settings({})
        assert served(AFTER)(converse(server.address, first + request(1) + FOLLOWING))
        return
    assert case.expect(outcome), outcome
    assert not case.lives or served(AFTER)(outcome), outcome
