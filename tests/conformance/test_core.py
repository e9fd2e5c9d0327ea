"""The cases against the core alone, in memory: no socket, no thread, no clock."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import service.http2
from service.errors import ServiceError
from service.http2.connection import Connection
from service.http2.deframer import ReceiveBudget
from service.http2.events import CallStarted, ConnectionEnded, HalfClosed, MessageReceived, RequestRejected
from service.http2.stream import Stream
from service.rpc.status import status_of
from tests.conformance.cases import AFTER, CASES, FOLLOWING, PATH, Case
from tests.conformance.outcome import Outcome, read, served

BUDGET = ReceiveBudget(2**20, 2**23, 2**21)


class Server:
    """The least that answers ``ServerLive`` on a connection."""

    def __init__(self) -> None:
        self.connection = Connection(BUDGET)
        self.messages: dict[Stream, list[bytes]] = {}
        self.ended = False

    def receive(self, wire: bytes) -> bytes:
        """Takes bytes, and returns what is to be sent."""
        for event in self.events(wire):
            if isinstance(event, CallStarted):
                event.stream.whole_only = True
                self.messages[event.stream] = []
                if event.stream.head.path != PATH:
                    self.connection.send_trailers(event.stream, 12, "Method not found!")
            elif isinstance(event, MessageReceived):
                self.messages[event.stream].append(event.payload)
                if event.half_closed:
                    self.answer(event.stream)
            elif isinstance(event, HalfClosed):
                self.answer(event.stream)
            elif isinstance(event, RequestRejected):
                self.fail(event.stream, event.error)
            elif isinstance(event, ConnectionEnded):
                self.ended = True
        return self.connection.data_to_send()

    def events(self, wire: bytes) -> Iterator[object]:
        yield from self.connection.receive_data(wire)
        while self.connection.has_unread and not self.ended:
            yield from self.connection.receive_data(b"")

    def answer(self, stream: Stream) -> None:
        if self.messages[stream] == [b""]:
            self.connection.send_unary(stream, b"\x08\x01")
        else:
            self.connection.send_trailers(stream, 3, "one empty message is asked for")

    def fail(self, stream: Stream, error: Exception) -> None:
        assert isinstance(error, ServiceError)
        self.connection.send_trailers(stream, status_of(error).code.value[0], str(error))


def run(case: Case, piece: int) -> Outcome:
    """What the core answers to a case whose bytes come in pieces of this length."""
    server, sent = Server(), b""
    wire = case.first + case.wire + (FOLLOWING if case.lives else b"")
    for at in range(0, len(wire), piece):
        sent += server.receive(wire[at : at + piece])
        if server.ended:
            break
    server.connection.close()
    assert BUDGET.held == 0
    return read(sent, closed=server.ended)


@pytest.mark.parametrize("piece", [2**20, 1], ids=["at once", "by octets"])
@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_core_does_what_is_asked(case: Case, piece: int) -> None:
    """Each case ends as its section says, however its bytes are cut, and nothing it held is left."""
    outcome = run(case, piece)
    assert case.expect(outcome), outcome
    assert not case.lives or served(AFTER)(outcome), outcome


def test_cases_are_many_and_distinct() -> None:
    """There are 140 cases or more, and no two have one name."""
    assert len({case.id for case in CASES}) == len(CASES) >= 140


def test_core_has_no_input_output() -> None:
    """Nothing in service/http2 imports a socket, a poller, TLS, a thread, a lock or a clock."""
    forbidden = {"socket", "select", "selectors", "ssl", "threading", "asyncio", "queue", "time", "os", "_thread"}
    for path in Path(service.http2.__path__[0]).glob("*.py"):
        imported = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
            elif isinstance(node, ast.ImportFrom) and node.level > 1:
                imported.add(f"..{node.module}")
        assert not imported & forbidden, path
        assert not {name for name in imported if name.startswith("..rpc")}, path
