"""HPACK, the receiving side: RFC 7541. The static table and Huffman's code are those of the library hpack.

Why not all of it: clients whose deadlines differ from request to request (those in Go and Java) change the table with
each, so that no block can be remembered; a usual one takes 5 µs here, and 27 in the library. Tests hold both equal.
"""

from functools import lru_cache
from typing import Final

from hpack import HPACKDecodingError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

STATIC: Final[tuple[tuple[bytes, bytes], ...]] = tuple(HeaderTable.STATIC_TABLE)
TABLE_BYTES = 4_096
"""Of the dynamic table, unless we had announced another limit, which we do not."""
ENTRY_BYTES = 32
"""What an entry counts beside its name and value (section 4.1)."""
MOST_OCTETS = 5
"""Of an integer: more are needed by no length that could be meant."""
CACHED_BYTES = 64

Field = tuple[bytes, bytes]


class BadBlock(Exception):
    """A header block that nobody could decode: from here on the table cannot be known."""


class TooLong(Exception):
    """The fields of a block are more than was allowed."""


class Decoder:
    """Decodes the header blocks of one connection, in their order."""

    def __init__(self, max_list_bytes: int) -> None:
        """``max_list_bytes``: of a block's fields, each counted as in the table."""
        self._max_list_bytes = max_list_bytes
        self._entries: list[Field] = []  # the newest first
        self._bytes = 0
        self._limit = TABLE_BYTES
        self.changes = 0
        """How often the table has changed."""

    def decode(self, block: bytes) -> list[Field]:
        """The fields of a block, names and values as they are; raises BadBlock or TooLong."""
        fields: list[Field] = []
        size, at, end = 0, 0, len(block)
        try:
            while at < end:
                first = block[at]
                if first >= 0x80:  # an entry of the table
                    index, at = _integer(block, at, 0x7F)
                    field = self._entry(index)
                elif first >= 0x40:  # a literal that becomes one
                    field, at = self._literal(block, at, 0x3F)
                    self._add(field)
                elif first >= 0x20:
                    if fields:
                        raise BadBlock("the table's size changes in the middle of a block")
                    limit, at = _integer(block, at, 0x1F)
                    self._resize(limit)
                    continue
                else:  # a literal that does not
                    field, at = self._literal(block, at, 0x0F)
                fields.append(field)
                size += len(field[0]) + len(field[1]) + ENTRY_BYTES
                if size > self._max_list_bytes:
                    raise TooLong(f"the request's fields are longer than {self._max_list_bytes} bytes")
        except IndexError:
            raise BadBlock("it ends in the middle of a field") from None
        return fields

    def _entry(self, index: int) -> Field:
        if index > len(STATIC):
            place = index - len(STATIC) - 1
            if place < len(self._entries):
                return self._entries[place]
        elif index:
            return STATIC[index - 1]
        raise BadBlock(f"the table has no entry {index}")

    def _literal(self, block: bytes, at: int, most: int) -> tuple[Field, int]:
        index, at = _integer(block, at, most)
        if index:
            name = self._entry(index)[0]
        else:
            name, at = _string(block, at)
        value, at = _string(block, at)
        return (name, value), at

    def _add(self, field: Field) -> None:
        self.changes += 1
        size = len(field[0]) + len(field[1]) + ENTRY_BYTES
        self._evict(self._limit - size)
        if size <= self._limit:
            self._entries.insert(0, field)
            self._bytes += size

    def _resize(self, limit: int) -> None:
        if limit > TABLE_BYTES:
            raise BadBlock(f"a table of {limit} bytes, where {TABLE_BYTES} are allowed")
        self.changes += 1
        self._limit = limit
        self._evict(limit)

    def _evict(self, most: int) -> None:
        """Forgets the oldest entries until there are at most so many bytes of them."""
        while self._entries and self._bytes > most:
            name, value = self._entries.pop()
            self._bytes -= len(name) + len(value) + ENTRY_BYTES


def _integer(block: bytes, at: int, most: int) -> tuple[int, int]:
    """A number whose first bits fill ``most``, and where what follows it begins (section 5.1)."""
    value = block[at] & most
    at += 1
    if value < most:
        return value, at
    for shift in range(0, 7 * MOST_OCTETS, 7):
        octet = block[at]
        at += 1
        value += (octet & 0x7F) << shift
        if octet < 0x80:
            return value, at
    raise BadBlock("a number of more than 32 bits")


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    """A string, and where what follows it begins (section 5.2)."""
    coded = block[at] >= 0x80
    length, at = _integer(block, at, 0x7F)
    end = at + length
    if end > len(block):
        raise BadBlock("it ends in the middle of a string")
    text = block[at:end]
    if coded:
        text = _plain(text) if length <= CACHED_BYTES else _decode(text)
    return text, end


def _decode(text: bytes) -> bytes:
    try:
        return bytes(decode_huffman(text))
    except HPACKDecodingError as error:
        raise BadBlock(str(error)) from error


_plain = lru_cache(maxsize=4096)(_decode)
