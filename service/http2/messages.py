"""The messages in a stream's data: a flag, a length, and so many bytes (gRPC over HTTP/2, "Length-Prefixed-Message").

A message's length is known after its first five bytes, so one that is too long is refused before it is received.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator

from service.errors import InvalidRequest, Overloaded, Unsupported

PREFIX = struct.Struct(">BL")
WINDOW_BITS = {"gzip": 31, "deflate": 15}
"""How zlib tells the two apart."""
MOST_PIECES, PIECE_BYTES = 256, 1024
"""Pieces held apart; more only while they have so many bytes on average: a piece costs 200 to hold."""


class Allowance:
    """Bytes of messages that are being received, on all connections together; the thread that reads counts them."""

    def __init__(self, max_message_bytes: int, max_bytes: int) -> None:
        """At most ``max_message_bytes`` each, and ``max_bytes`` of all that have begun and not ended."""
        self.max_message_bytes = max_message_bytes
        self._left = self._max_bytes = max_bytes

    def take(self, length: int) -> None:
        """Sees to it that a message of this length may come; raises Overloaded."""
        if length > self.max_message_bytes:
            raise Overloaded(f"Received message larger than max ({length} vs. {self.max_message_bytes} bytes)")
        if length > self._left:
            raise Overloaded(
                f"too many large messages at once: {self._max_bytes - self._left} bytes of others are on their way, "
                f"{self._max_bytes} may be. Try again later."
            )
        self._left -= length

    def give_back(self, length: int) -> None:
        """The message has come, or never will."""
        self._left += length


class Messages:
    """Puts together the messages of one stream from the pieces in which they come."""

    def __init__(self, allowance: Allowance, encoding: str) -> None:
        self._allowance = allowance
        self._encoding = encoding
        self._pieces: list[memoryview] = []
        self._size = 0
        self._length: int | None = None
        self._compressed = False

    @property
    def missing(self) -> int:
        """Bytes to come of the message that has begun; 0 between messages, and before a length is known."""
        return 0 if self._length is None else max(0, PREFIX.size + self._length - self._size)

    @property
    def between(self) -> bool:
        """Whether nothing of a next message has come."""
        return self._size == 0

    def feed(self, piece: memoryview) -> Iterable[bytes]:
        """The messages that this piece completes; raises InvalidRequest, Unsupported or Overloaded."""
        self._pieces.append(piece)
        self._size += len(piece)
        if self._length is not None and self._size < PREFIX.size + self._length and len(self._pieces) < MOST_PIECES:
            return ()  # the longest part of a large message, a frame of 16 KiB at a time
        return self._complete()

    def _complete(self) -> Iterator[bytes]:
        if len(self._pieces) > max(MOST_PIECES, self._size // PIECE_BYTES):
            self._pieces = [memoryview(b"".join(self._pieces))]
        while self._size >= PREFIX.size:
            if self._length is None:
                head = self._pieces[0] if len(self._pieces[0]) >= PREFIX.size else b"".join(self._pieces)
                flag, length = PREFIX.unpack_from(head)
                self._check(flag, length)
                self._length, self._compressed = length, bool(flag)
            end = PREFIX.size + self._length
            if self._size < end:
                return
            whole = memoryview(b"".join(self._pieces)) if len(self._pieces) > 1 else self._pieces[0]
            message = bytes(whole[PREFIX.size : end])
            self._pieces = [whole[end:]] if end < self._size else []
            self._size -= end
            self._allowance.give_back(self._length)
            self._length = None
            yield self._inflate(message) if self._compressed else message

    def drop(self) -> None:
        """No more will come."""
        if self._length is not None:
            self._allowance.give_back(self._length)
        self._pieces, self._size, self._length = [], 0, None

    def _check(self, flag: int, length: int) -> None:
        if flag > 1:
            raise InvalidRequest(f"a message begins with 0 or 1, not with {flag}: this is not gRPC's framing")
        if flag and self._encoding not in WINDOW_BITS:
            raise Unsupported(f"messages compressed by {self._encoding[:40]!r} are not read here: gzip and deflate are")
        self._allowance.take(length)

    def _inflate(self, message: bytes) -> bytes:
        most = self._allowance.max_message_bytes
        inflater = zlib.decompressobj(WINDOW_BITS[self._encoding])
        try:
            inflated = inflater.decompress(message, most + 1)
        except zlib.error as error:
            raise InvalidRequest(f"the message is not compressed by {self._encoding}, as it says: {error}") from error
        if len(inflated) > most:
            raise Overloaded(f"Received message larger than max (over {most} bytes when decompressed)")
        if not inflater.eof:
            raise InvalidRequest(f"the message ends in the middle of its {self._encoding} data")
        return inflated
