"""Header blocks are decoded as the library hpack decodes them, which we do not use for its time."""

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.http2.hpack import Decoder, DecodingError, Field

LIST_BYTES = 65_536
NAMES = st.sampled_from([b":path", b":method", b"te", b"grpc-timeout", b"user-agent", b"x-", b"x" * 40])
VALUES = st.sampled_from([b"", b"POST", b"trailers", b"\xff\x00", b"v" * 300]) | st.binary(max_size=80)
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=8)
SIZES = st.none() | st.integers(0, 4096)


def by_library(decoder: hpack.Decoder, block: bytes) -> list[Field]:
    return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]


@given(st.lists(st.tuples(FIELDS, SIZES, st.booleans()), max_size=12))
def test_encoder_is_understood(requests: list[tuple[list[Field], int | None, bool]]) -> None:
    """With and without Huffman's code, with fields that must not be remembered, while the table's size changes."""
    encoder, ours, library = hpack.Encoder(), Decoder(), hpack.Decoder(LIST_BYTES)
    for fields, size, huffman in requests:
        if size is not None:
            encoder.header_table_size = size
        marked = [hpack.NeverIndexedHeaderTuple(*field) if field[0] == b"x-" else field for field in fields]
        block = encoder.encode(marked, huffman=huffman)
        assert ours.decode(block) == by_library(library, block) == fields


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_garbage_as_the_library_does(blocks: list[bytes]) -> None:
    """Garbage is refused, or is what the library makes of it."""
    ours, library = Decoder(), hpack.Decoder(LIST_BYTES)
    for block in blocks:
        try:
            fields = ours.decode(block)
        except DecodingError:
            return
        assert fields == by_library(library, block)


CODED = st.binary(max_size=100) | st.lists(
    st.sampled_from([b"\xff", b"\x1f", b"\x00", b"\x3f", b"\xfe"]), max_size=100
).map(b"".join)


@given(CODED)
def test_huffman_as_the_library_does(text: bytes) -> None:
    """Octets said to be in Huffman's code are refused where the library refuses them, or mean the same."""
    block = b"\x00\x01a" + bytes([0x80 | len(text)]) + text
    try:
        expected = by_library(hpack.Decoder(LIST_BYTES), block)
    except hpack.HPACKError:
        with pytest.raises(DecodingError, match="a string"):
            Decoder().decode(block)
    else:
        assert Decoder().decode(block) == expected


@given(FIELDS, st.data())
def test_cut_block_is_its_beginning(fields: list[Field], data: st.DataObject) -> None:
    """A block that is cut is refused, or is the beginning of the whole."""
    block = hpack.Encoder().encode(fields)
    cut = data.draw(st.integers(0, len(block)))
    try:
        found = Decoder().decode(block[:cut])
    except DecodingError:
        return
    assert found == fields[: len(found)]


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (b"\x80", "index 0"),
        (b"\xbe", "the table lacks"),
        (b"\x3f\xe2\x1f", "a table of 4097 bytes"),
        (b"\x82\x20", "in the middle of a block"),
        (b"\xff\xff\xff\xff\xff\xff\x00", "more than 32 bits"),
        (b"\x00\x05ab", "within a string"),
        (b"\x40", "within a field"),
        (b"\x00\x81\x00\x00", "ends within a code"),
    ],
)
def test_wrong_block_is_told_why(block: bytes, words: str) -> None:
    """A block that is wrong is told why."""
    with pytest.raises(DecodingError, match=words):
        Decoder().decode(block)


def test_changes_are_counted() -> None:
    """Changes of the table are counted."""
    decoder = Decoder()
    decoder.decode(b"\x82\x00\x01a\x01b")
    assert decoder.changes == 0
    decoder.decode(b"\x40\x01a\x01b")
    decoder.decode(b"\x20")
    assert decoder.changes == 2
