"""HPACK, the decoding side: RFC 7541.

Written here because the decoding of a block whose literals are new decides what a deadline, a trace or a request id
costs: a traceparent in Huffman's code takes 0.9 µs through zlib, 3 µs by the table of rows below, 13 µs by the h2
project's library.
"""

import zlib
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import Final

Field = tuple[bytes, bytes]

_STATIC_TEXT: Final = (
    ":authority|:method=GET|:method=POST|:path=/|:path=/index.html|:scheme=http|:scheme=https|:status=200|"
    ":status=204|:status=206|:status=304|:status=400|:status=404|:status=500|accept-charset|"
    "accept-encoding=gzip, deflate|accept-language|accept-ranges|accept|access-control-allow-origin|age|allow|"
    "authorization|cache-control|content-disposition|content-encoding|content-language|content-length|"
    "content-location|content-range|content-type|cookie|date|etag|expect|expires|from|host|if-match|"
    "if-modified-since|if-none-match|if-range|if-unmodified-since|last-modified|link|location|max-forwards|"
    "proxy-authenticate|proxy-authorization|range|referer|refresh|retry-after|server|set-cookie|"
    "strict-transport-security|transfer-encoding|user-agent|vary|via|www-authenticate"
)
STATIC_TABLE: Final[tuple[Field, ...]] = tuple(
    (name.encode(), value.encode()) for name, _, value in (entry.partition("=") for entry in _STATIC_TEXT.split("|"))
)
"""Appendix A."""
_NO_ENTRY: Final = (b"", b"")
"""Where no index leads."""
_NEWEST: Final = 0x81 + len(STATIC_TABLE)
"""Where the newest entry of the dynamic table is kept."""
TABLE_BYTES: Final = 4_096
"""SETTINGS_HEADER_TABLE_SIZE: of the dynamic table; we announce no other."""
ENTRY_BYTES: Final = 32
"""What an entry counts beside its name and value (section 4.1)."""
LONGEST_INTEGER: Final = 5
"""Octets of an integer: no length that can be meant needs more."""

# Appendix B: the code is canonical, so the symbols in the order of their codes, by length, are all of it.
_SYMBOLS_BY_LENGTH: Final[dict[int, bytes]] = {
    5: b"012aceiost",
    6: b" %-./3456789=A_bdfghlmnpru",
    7: b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz",
    8: b"&*,;XZ",
    10: b'!"()?',
    11: b"'+|",
    12: b"#>",
    13: b"\x00$@[]~",
    14: b"^}",
    15: b"<`{",
    19: b"\\\xc3\xd0",
    20: bytes.fromhex("808283a2b8c2e0e2"),
    21: bytes.fromhex("99a1a7acb0b1b3d1d8d9e3e5e6"),
    22: bytes.fromhex("8184858688929a9ca0a3a4a9aaadb2b5b9babbbdbec4c6e4e8e9"),
    23: bytes.fromhex("0187898a8b8c8d8f93959697989b9d9ea5a6a8aeafb4b6b7bcbfc5e7ef"),
    24: bytes.fromhex("098e9091949fabced7e1eced"),
    25: bytes.fromhex("c7cfeaeb"),
    26: bytes.fromhex("c0c1c8c9cacdd2d5dadbeef0f2f3ff"),
    27: bytes.fromhex("cbccd3d4d6dddedff1f4f5f6f7f8fafbfcfdfe"),
    28: bytes.fromhex("020304050607080b0c0e0f1011121314151718191a1b1c1d1e1f7fdcf9"),
    30: b"\n\r\x16",  # and EOS, 30 ones
}
_LONGEST_CODE: Final = 30


class DecodingError(Exception):
    """A header block that cannot be decoded: from here on the table is unknown (section 2.2)."""


class Decoder:
    """Decodes the header blocks of one connection, in their order."""

    def __init__(self, varying: AbstractSet[bytes] = frozenset()) -> None:
        """``varying``: names of fields that are not looked for among those that repeat."""
        # By the octet of an indexed field: entry 1 at 0x81, the newest dynamic entry behind the static ones.
        self._table: list[Field] = [_NO_ENTRY] * 0x81 + list(STATIC_TABLE)
        self._varies = [False] * len(self._table)
        """Of each entry, whether its name was in ``varying`` when it came."""
        self._bytes = 0
        self._limit = TABLE_BYTES
        self._varying = varying
        self.changes = 0
        """How often the table has changed."""
        self.varied: list[Field] = []
        """Of the last block, the fields with names of ``varying``."""
        self.repeated: list[Field] = []
        """Of the last block, all others."""

    def decode(self, block: bytes) -> list[Field]:  # noqa: C901, PLR0912, PLR0914, PLR0915 - calls cost half as much again
        """Returns the fields of a block; raises DecodingError."""
        table, varies, varying, held, limit = self._table, self._varies, self._varying, self._bytes, self._limit
        fields: list[Field] = []
        repeated = fields
        varied: list[Field] = []
        at, end = 0, len(block)
        try:
            while at < end:
                first = block[at]
                if first >= 0x80:  # an indexed field
                    at += 1
                    index = first
                    if first == 0xFF:
                        index, at = _integer(block, at - 1, 0x7F)
                        index += 0x80
                    elif first == 0x80:
                        raise DecodingError("index 0 is no entry")
                    field = table[index]
                    if varies[index]:
                        if repeated is fields:
                            repeated = fields.copy()
                        varied.append(field)
                    elif repeated is not fields:
                        repeated.append(field)
                    fields.append(field)
                    continue
                # A literal: 01 is added to the table, 0000 and 0001 are not.
                at += 1
                if first >= 0x40:
                    index = first & 0x3F
                    if index == 0x3F:
                        index, at = _integer(block, at - 1, 0x3F)
                elif first < 0x20:
                    index = first & 0x0F
                    if index == 0x0F:
                        index, at = _integer(block, at - 1, 0x0F)
                else:
                    if fields:
                        raise DecodingError("the table's size changes in the middle of a block")
                    size, at = _integer(block, at - 1, 0x1F)
                    self._bytes = held
                    self._resize(size)
                    held, limit = self._bytes, self._limit
                    continue
                if index:
                    name = table[0x80 + index][0]
                else:
                    name, at = _name(block, at)
                length = block[at]
                at += 1
                if length >= 0x80:
                    length -= 0x80
                    if length == 0x7F:
                        length, at = _integer(block, at - 1, 0x7F)
                    value = block[at : at + length]
                    at += length
                    if at > end:
                        break
                    value = decode_huffman(value) if length > MAX_USUAL or name in varying else _usual(value)
                else:
                    if length == 0x7F:
                        length, at = _integer(block, at - 1, 0x7F)
                    value = block[at : at + length]
                    at += length
                    if at > end:
                        break
                field = name, value
                if first >= 0x40:
                    size = len(name) + len(value) + ENTRY_BYTES
                    held += size
                    while held > limit and len(table) > _NEWEST:
                        oldest = table.pop()
                        varies.pop()
                        held -= len(oldest[0]) + len(oldest[1]) + ENTRY_BYTES
                    if size <= limit:
                        table.insert(_NEWEST, field)
                        varies.insert(_NEWEST, name in varying)
                    else:
                        held -= size
                    self.changes += 1
                if name in varying:
                    if repeated is fields:
                        repeated = fields.copy()
                    varied.append(field)
                elif repeated is not fields:
                    repeated.append(field)
                fields.append(field)
        except IndexError:
            raise DecodingError("the block ends within a field, or names an entry that the table lacks") from None
        if at > end:
            raise DecodingError("the block ends within a string")
        self._bytes, self.repeated, self.varied = held, repeated, varied
        return fields

    def _resize(self, limit: int) -> None:
        if limit > TABLE_BYTES:
            raise DecodingError(f"a table of {limit} bytes, where {TABLE_BYTES} are allowed")
        self.changes += 1
        self._limit = limit
        self._evict(limit)

    def _evict(self, limit: int) -> None:
        """Drops the oldest entries until at most so many bytes are left."""
        table = self._table
        while self._bytes > limit and len(table) > _NEWEST:
            entry = table.pop()
            self._varies.pop()
            self._bytes -= len(entry[0]) + len(entry[1]) + ENTRY_BYTES


def _integer(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """Returns an integer whose first bits fill ``mask``, and where it ends (section 5.1)."""
    value = block[at] & mask
    at += 1
    if value < mask:
        return value, at
    for shift in range(0, 7 * LONGEST_INTEGER, 7):
        octet = block[at]
        at += 1
        value += (octet & 0x7F) << shift
        if octet < 0x80:
            return value, at
    raise DecodingError("an integer of more than 32 bits")


def _name(block: bytes, at: int) -> tuple[bytes, int]:
    """Returns a name, and where it ends (section 5.2)."""
    coded = block[at] & 0x80
    length = block[at] & 0x7F
    if length == 0x7F:
        length, at = _integer(block, at, 0x7F)
    else:
        at += 1
    end = at + length
    if end > len(block):
        raise DecodingError("the block ends within a string")
    text = block[at:end]
    if coded:
        text = _usual(text) if length <= MAX_USUAL else decode_huffman(text)
    return text, end


# Huffman's code as an automaton over octets: a state is the bits of a code that has begun, and its row has, for each
# octet, what it completes and the next row. Rows are filled when they are first entered: 0.2 ms each.
_Row = list["tuple[bytes, _Row | None]"]


def _code() -> dict[str, int]:
    """Returns the symbol of each code, as a text of ones and zeros."""
    codes: dict[str, int] = {}
    code, before = 0, min(_SYMBOLS_BY_LENGTH)
    for length, symbols in _SYMBOLS_BY_LENGTH.items():
        code <<= length - before
        before = length
        for symbol in symbols:
            codes[f"{code:0{length}b}"] = symbol
            code += 1
    return codes


_CODES: Final = _code()
_ROWS: Final[dict[str, _Row]] = {"": []}
_PADDING: Final = {id(_ROWS.setdefault("1" * length, [])) for length in range(8)}
"""The rows in which a text may end: at most 7 bits of EOS, which is ones (section 5.2)."""


def _fill(row: _Row) -> None:
    begun = next(bits for bits, known in _ROWS.items() if known is row)
    entries: _Row = []
    for octet in range(256):
        completed, bits = bytearray(), begun
        for bit in f"{octet:08b}":
            bits += bit
            if bits in _CODES:
                completed.append(_CODES[bits])
                bits = ""
        is_error = len(bits) >= _LONGEST_CODE  # EOS
        entries.append((bytes(completed), None if is_error else _ROWS.setdefault(bits, [])))
    row.extend(entries)


def _walk(text: bytes) -> bytes:
    """Returns the text decoded by the automaton, which knows all symbols and errors; raises DecodingError."""
    while True:
        entry: tuple[bytes, _Row | None] = (b"", _ROWS[""])
        try:
            # None is an error, and caught; an empty row is filled.
            pieces = [(entry := entry[1][octet])[0] for octet in text]  # type: ignore[index]
        except IndexError:
            _fill(entry[1])  # type: ignore[arg-type]
            continue
        except TypeError:
            raise DecodingError("a string has the code of EOS") from None
        if id(entry[1]) not in _PADDING:
            raise DecodingError("a string ends within a code, or is padded by more than 7 bits")
        return b"".join(pieces)


# DEFLATE (RFC 1951) has canonical codes too, of at most 15 bits, its bits read from the other end of each octet. So
# zlib decodes the symbols that texts have, if their lengths are given as a block's: 15 ones, which begin all the rare
# symbols, are its end-of-block code. The block's end is asked for behind the text, and whatever else is met walks.
_LONGEST_OF_DEFLATE: Final = 15
_REVERSED: Final = bytes(int(f"{octet:08b}"[::-1], 2) for octet in range(256))
_LENGTHS: Final = bytes(
    next((length for length, symbols in _SYMBOLS_BY_LENGTH.items() if symbol in symbols), 0) for symbol in range(256)
)
"""Of each symbol's code, in bits."""
_END: Final = b"\xff\x7f"
"""Fifteen ones behind the padding, in the order of DEFLATE's bits."""


def _prepare_inflater() -> "zlib._Decompress":
    """Returns an inflater that has read a block's header with the code's lengths, to be copied for each text."""
    lengths = [0] * 256 + [_LONGEST_OF_DEFLATE]
    for length, symbols in _SYMBOLS_BY_LENGTH.items():
        if length <= _LONGEST_OF_DEFLATE:
            for symbol in symbols:
                lengths[symbol] = length
    lengths += [0, 0]  # no distances: two of them, so that the header ends with an octet
    bits = "010" + 7 * "0"  # an empty block, for the same reason
    bits += "101" + "00000" + "10000" + "1111"  # the last block, dynamic; 257 symbols, 2 distances, 19 lengths
    bits += 3 * "000" + 16 * "001"  # lengths are themselves written in 4 bits
    bits += "".join(f"{length:04b}" for length in lengths)
    inflater = zlib.decompressobj(-9)
    inflater.decompress(bytes(int(bits[at : at + 8][::-1], 2) for at in range(0, len(bits), 8)))
    return inflater


_copy_inflater: Final = _prepare_inflater().copy


def decode_huffman(text: bytes) -> bytes:
    """Returns the text decoded; raises DecodingError."""
    inflater = _copy_inflater()
    decoded = inflater.decompress(text.translate(_REVERSED) + _END, 2 * len(text) + 8)
    if inflater.eof:
        unused = inflater.unused_data
        # 0xFF: more than 7 bits of padding, perhaps.
        if not unused or (
            len(unused) == 1 and (text[-1] != 0xFF or 8 * len(text) - sum(decoded.translate(_LENGTHS)) < 8)
        ):
            return decoded
    return _walk(text)


MAX_USUAL: Final = 64
_usual: Final = lru_cache(maxsize=256)(decode_huffman)
"""Names, paths and other texts up to so long, which clients repeat even where they keep them out of the table."""
