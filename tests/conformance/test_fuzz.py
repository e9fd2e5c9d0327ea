"""Frames that no client would send, against the core in memory; `make fuzz` takes longer over it.

What hypothesis finds it keeps in .hypothesis, and tries first the next time.
"""

import os

from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.http2 import frames
from tests.conformance.cases import BLOCK, CASES, FOLLOWING, Case, message, request
from tests.conformance.outcome import read
from tests.conformance.test_core import BUDGET, Server

EXAMPLES = int(os.environ.get("CONVSERVE_FUZZ_EXAMPLES", "200"))
HELLO = frames.PREFACE + frames.settings({})
STREAMS = st.sampled_from([0, 1, 1, 3, 5, 7, 2**31 - 1])
PAYLOADS = st.sampled_from([b"", BLOCK, BLOCK[:9], message(b"abc"), message(), bytes(4), bytes(8), b"\0\0\0\1"])
FRAMES = st.builds(frames.frame, st.integers(0, 12), st.integers(0, 255), STREAMS, PAYLOADS | st.binary(max_size=60))
SENSIBLE = st.sampled_from([case.wire for case in CASES if case.lives])


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(FRAMES | SENSIBLE | st.binary(max_size=30), max_size=12), st.integers(1, 400))
@example([request(1), b"\0"], 1)
def test_any_frames_keep_the_rules(parts: list[bytes], piece: int) -> None:
    """Whatever comes, the core raises nothing, says why it ends, holds no more than was sent, and lets go of it all."""
    server, sent, wire = Server(), b"", HELLO + b"".join(parts)
    for at in range(0, len(wire), piece):
        sent += server.receive(wire[at : at + piece])
        assert BUDGET.held <= len(wire)
        if server.ended:
            break
    outcome = read(sent, closed=server.ended)
    assert server.ended == any(outcome.goaways)
    server.connection.close()
    assert BUDGET.held == 0


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.sampled_from(CASES), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4))
def test_changed_octets_are_contained(case: Case, changes: list[tuple[int, int]]) -> None:
    """With some octets of a conversation changed, the core raises nothing and keeps nothing."""
    wire = bytearray(case.first + case.wire + FOLLOWING)
    for at, value in changes:
        wire[at % len(wire)] = value
    server = Server()
    outcome = read(server.receive(bytes(wire)), closed=server.ended)
    assert server.ended == any(outcome.goaways)
    assert all(status in range(17) for status in outcome.grpc_status.values())
    server.connection.close()
    assert BUDGET.held == 0
