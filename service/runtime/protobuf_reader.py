"""Protobuf messages, read where they lie: nothing is copied, and what is not asked for is skipped by its length.

https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterator
from typing import NamedTuple

VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5
"""Wire types."""


class Field(NamedTuple):
    """One field of a message."""

    number: int
    value: int | memoryview
    """A number as it is encoded; anything else as its bytes."""
    start: int
    """Where the field begins in its message, its tag included."""
    end: int

    @property
    def message(self) -> memoryview:
        """The bytes of a message, text or packed field; raises ValueError for a number."""
        if isinstance(self.value, int):
            raise ValueError(f"field {self.number} is a number where a message is expected")  # noqa: TRY004 - the message is at fault
        return self.value

    @property
    def text(self) -> str:
        """The value of a string; raises ValueError for anything else."""
        return str(self.message, "utf-8")

    @property
    def numbers(self) -> tuple[int, ...]:
        """The values of a repeated int64, packed or not."""
        if isinstance(self.value, int):
            return (_signed(self.value),)
        numbers = []
        at = 0
        while at < len(self.value):
            number, at = _varint(self.value, at)
            numbers.append(_signed(number))
        return tuple(numbers)


def fields(message: memoryview) -> Iterator[Field]:
    """The fields of a message in their order; raises ValueError where it is none."""
    at, end = 0, len(message)
    while at < end:
        start = at
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if not number:
            raise ValueError("a field has the number 0")
        if kind == VARINT:
            value, at = _varint(message, at)
            yield Field(number, value, start, at)
            continue
        if kind == LENGTH:
            size, at = _varint(message, at)
        elif kind in (EIGHT_BYTES, FOUR_BYTES):
            size = 8 if kind == EIGHT_BYTES else 4
        else:
            raise ValueError(f"a field has the unknown wire type {kind}")
        if at + size > end:
            raise ValueError(f"a field of {size} bytes at byte {at} ends after its message, which has {end} bytes")
        yield Field(number, message[at : at + size], start, at + size)
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        if at >= len(data):
            raise ValueError("it ends within a number")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("a number is longer than 64 bits")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
