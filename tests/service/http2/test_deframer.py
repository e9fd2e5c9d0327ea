"""Messages are put together, counted, and unpacked in steps."""

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequest, Overloaded
from service.http2.deframer import (
    INFLATE_BYTES,
    INFLATE_INPUT_BYTES,
    WORK_INPUT_BYTES,
    ConnectionBudget,
    MessageDeframer,
    ReceiveBudget,
)
from tests.service.rpc.peer import message

MOST = 2**23


def deframer(encoding: str = "identity", budget: ReceiveBudget | None = None) -> MessageDeframer:
    return MessageDeframer(ConnectionBudget(budget or ReceiveBudget(MOST, 4 * MOST, 2 * MOST)), encoding)


def whole(messages: MessageDeframer) -> bytes:
    """The next message, in as many steps as it takes."""
    while (found := messages.next_message()) is None:
        assert messages.has_message
    return found


@given(st.lists(st.binary(max_size=60), max_size=9), st.data())
def test_messages_from_any_pieces(payloads: list[bytes], data: st.DataObject) -> None:
    """Messages are the same however their bytes are cut, and nothing is counted when all are taken."""
    budget = ReceiveBudget(MOST, 4 * MOST, 2 * MOST)
    messages, wire, found = deframer(budget=budget), b"".join(map(message, payloads)), []
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=12)))
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        messages.receive_data(wire[start:end])
        while messages.has_message:
            found.append(messages.next_message())
    assert found == payloads
    assert (messages.is_partial, budget.held) == (False, 0)


def test_large_message_inflates_in_steps() -> None:
    """Decompression stops after each step's bytes, so that others have their turn."""
    payload = bytes(5 * INFLATE_BYTES)
    messages = deframer("gzip")
    messages.receive_data(message(gzip.compress(payload), flag=1))
    steps = 0
    while (found := messages.next_message()) is None:
        assert messages.has_message
        steps += 1
    assert found == payload
    assert steps >= 4


def test_empty_blocks_inflate_in_steps() -> None:
    """Compressed data that unpack to nothing are read in steps too."""
    packer = zlib.compressobj(wbits=31)
    packed = packer.compress(b"") + b"".join(packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    packed += b"\0\0\0\xff\xff" * 100_000 + packer.flush()
    messages = deframer("gzip")
    messages.receive_data(message(packed, flag=1))
    steps = 0
    while (found := messages.next_message()) is None:
        assert messages.has_message
        assert messages.take_work() >= INFLATE_INPUT_BYTES // WORK_INPUT_BYTES
        steps += 1
    assert found == b""
    assert steps == len(packed) // INFLATE_INPUT_BYTES


def test_bomb_is_stopped_at_the_limit() -> None:
    """A message that unpacks to more than the limit is refused once it has passed it, and holds nothing."""
    budget = ReceiveBudget(MOST, 4 * MOST, 2 * MOST)
    messages = deframer("gzip", budget)
    messages.receive_data(message(gzip.compress(bytes(4 * MOST)), flag=1))
    with pytest.raises(Overloaded, match="when decompressed"):
        whole(messages)
    messages.discard()
    assert budget.held == 0


def test_cut_gzip_is_refused() -> None:
    """A message whose compressed data end early is refused."""
    messages = deframer("gzip")
    messages.receive_data(message(gzip.compress(b"abc")[:-9], flag=1))
    with pytest.raises(InvalidRequest, match="in the middle of its gzip"):
        whole(messages)


def test_shares_of_connections() -> None:
    """One connection's share is used up before all of the budget is: others are still served."""
    budget = ReceiveBudget(100, 1000, 250)
    one, other = ConnectionBudget(budget), ConnectionBudget(budget)
    for _ in range(2):
        one.take(120)
    with pytest.raises(Overloaded, match="on this connection"):
        one.take(20)
    other.take(250)
    third, fourth, fifth = (ConnectionBudget(budget) for _ in range(3))
    third.take(250)
    fourth.take(250)
    with pytest.raises(Overloaded, match="at once"):
        fifth.take(100)
    one.give_back(240)
    fifth.take(100)
