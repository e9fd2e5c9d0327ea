"""Protobuf's encoding, as far as we write it ourselves: https://protobuf.dev/programming-guides/encoding/."""

from functools import lru_cache
from typing import Final

LENGTH_DELIMITED: Final = 2
FIXED32: Final = 5


@lru_cache(1024)
def bytes_field(number: int, length: int) -> bytes:
    """What precedes the content of a field of bytes, text or a message: its tag, and its length."""
    return varint(number << 3 | LENGTH_DELIMITED) + varint(length)


def fixed32_tag(number: int) -> bytes:
    """What precedes the four bytes of a float."""
    return varint(number << 3 | FIXED32)


def varint(value: int) -> bytes:
    """A whole number from 0 on, seven bits a byte, the lowest first."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
