"""Header blocks are decoded as the library hpack decodes them, which we do not use for its time."""

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.http2.table import BadBlock, Decoder, Field, TooLong

LIST_BYTES = 65_536
NAMES = st.sampled_from([b":path", b":method", b"te", b"grpc-timeout", b"user-agent", b"x-", b"x" * 40])
VALUES = st.sampled_from([b"", b"POST", b"trailers", b"\xff\x00", b"v" * 300]) | st.binary(max_size=80)
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=8)
SIZES = st.none() | st.integers(0, 4096)


def by_library(decoder: hpack.Decoder, block: bytes) -> list[Field]:
    return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]


@given(st.lists(st.tuples(FIELDS, SIZES, st.booleans()), max_size=12))
def test_any_requests_of_one_encoder_are_understood(requests: list[tuple[list[Field], int | None, bool]]) -> None:
    """With and without Huffman's code, with fields that must not be remembered, while the table's size changes."""
    encoder, ours, library = hpack.Encoder(), Decoder(LIST_BYTES), hpack.Decoder(LIST_BYTES)
    for fields, size, huffman in requests:
        if size is not None:
            encoder.header_table_size = size
        marked = [hpack.NeverIndexedHeaderTuple(*field) if field[0] == b"x-" else field for field in fields]
        block = encoder.encode(marked, huffman=huffman)
        assert ours.decode(block) == by_library(library, block) == fields


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_garbage_is_a_bad_block_or_what_the_library_makes_of_it(blocks: list[bytes]) -> None:
    ours, library = Decoder(LIST_BYTES), hpack.Decoder(LIST_BYTES)
    for block in blocks:
        try:
            fields = ours.decode(block)
        except (BadBlock, TooLong):
            return
        assert fields == by_library(library, block)


@given(FIELDS, st.data())
def test_a_block_that_is_cut_short_is_never_more_than_its_beginning(fields: list[Field], data: st.DataObject) -> None:
    block = hpack.Encoder().encode(fields)
    cut = data.draw(st.integers(0, len(block)))
    try:
        found = Decoder(LIST_BYTES).decode(block[:cut])
    except BadBlock:
        return
    assert found == fields[: len(found)]


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (b"\x80", "no entry 0"),
        (b"\xbe", "no entry 62"),
        (b"\x3f\xe2\x1f", "a table of 4097 bytes"),
        (b"\x82\x20", "in the middle of a block"),
        (b"\xff\xff\xff\xff\xff\xff\x00", "more than 32 bits"),
        (b"\x00\x05ab", "in the middle of a string"),
        (b"\x40", "in the middle of a field"),
        (b"\x00\x81\x00\x00", "Huffman"),
    ],
)
def test_what_is_wrong_is_said(block: bytes, words: str) -> None:
    with pytest.raises(BadBlock, match=words):
        Decoder(LIST_BYTES).decode(block)


def test_fields_that_are_too_long_together_are_refused_before_they_are_all_unpacked() -> None:
    """Each octet would become 4 KB: an entry of the table, named again and again."""
    encoder = hpack.Encoder()
    block = encoder.encode([(b"x", b"y" * 3000)]) + b"\xbe" * 10_000
    with pytest.raises(TooLong, match="longer than 16384 bytes"):
        Decoder(16_384).decode(block)


def test_changes_are_counted_so_that_nothing_is_remembered_beyond_them() -> None:
    decoder = Decoder(LIST_BYTES)
    decoder.decode(b"\x82\x00\x01a\x01b")
    assert decoder.changes == 0
    decoder.decode(b"\x40\x01a\x01b")
    decoder.decode(b"\x20")
    assert decoder.changes == 2
