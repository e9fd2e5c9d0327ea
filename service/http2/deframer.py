"""gRPC's length-prefixed messages in a stream's data: limits, and decompression in steps.

A message's length is known after its first five octets, so that one that is too long is refused before it is received.
What counts against the budgets is what has been received, never what was announced.
"""

import struct
import zlib
from typing import Final

from ..errors import InvalidRequest, Overloaded, Unsupported

PREFIX: Final = struct.Struct(">BL")
"""Compressed-Flag and Message-Length."""
WINDOW_BITS: Final = {"gzip": 31, "deflate": 15}
"""How zlib tells the two apart."""
INFLATE_BYTES: Final = 2**20
INFLATE_INPUT_BYTES: Final = 2**16
"""Decompressed, and read for it, at a time: 1 to 3 ms; blocks may be empty, so that neither bounds the other."""
WORK_BYTES: Final = 2**11
WORK_INPUT_BYTES: Final = 2**7
"""Of these, what is as much work as a frame."""
COMPACT_BYTES: Final = 2**16
RETRY_S: Final = 1.0
"""After which a client may try again, where room comes when other messages are complete or answers are taken."""


class ReceiveBudget:
    """Bytes of messages that are received and not yet handed on, of all connections together."""

    def __init__(self, max_message_bytes: int, max_bytes: int, max_connection_bytes: int) -> None:
        """At most ``max_message_bytes`` a message, ``max_bytes`` in all, ``max_connection_bytes`` a connection."""
        self.max_message_bytes = max_message_bytes
        self.max_bytes = max_bytes
        self.max_connection_bytes = max_connection_bytes
        self.held = 0


class ConnectionBudget:
    """One connection's share of it."""

    def __init__(self, budget: ReceiveBudget) -> None:
        self.shared = budget
        self.held = 0

    def has_room(self, count: int) -> bool:
        """True where `take` would not raise."""
        shared = self.shared
        return self.held + count <= shared.max_connection_bytes and shared.held + count <= shared.max_bytes

    def take(self, count: int) -> None:
        """Counts bytes that are held from now on; raises Overloaded."""
        shared = self.shared
        if self.held + count > shared.max_connection_bytes:
            raise Overloaded(
                f"too many unfinished messages on this connection: {self.held} bytes are held, "
                f"{shared.max_connection_bytes} may be. Finish some requests first.",
                retry_after_s=RETRY_S,
            )
        if shared.held + count > shared.max_bytes:
            raise Overloaded(
                f"too many unfinished messages at once: {shared.held} bytes are held, {shared.max_bytes} may be. "
                "Try again later.",
                retry_after_s=RETRY_S,
            )
        self.held += count
        shared.held += count

    def give_back(self, count: int) -> None:
        """Counts bytes that are held no longer."""
        self.held -= count
        self.shared.held -= count


class MessageDeframer:
    """Puts the messages of one stream together."""

    def __init__(self, budget: ConnectionBudget, encoding: str) -> None:
        """``encoding``: of compressed messages, as grpc-encoding says."""
        self._budget = budget
        self._encoding = encoding
        self._buffer = bytearray()
        self._at = 0  # where the next message, or what is missing of it, begins
        self._length: int | None = None
        self._compressed = False
        self._inflation: _Inflation | None = None
        self._work = 0

    def receive_data(self, data: bytes | memoryview) -> None:
        """Takes a piece of the stream's data; raises InvalidRequest, Unsupported or Overloaded."""
        self._budget.take(len(data))
        self._buffer += data
        if self._length is None:
            self._read_prefix()

    @property
    def missing(self) -> int:
        """Octets to come of the message that has begun; 0 between messages."""
        return 0 if self._length is None else max(0, self._at + self._length - len(self._buffer))

    @property
    def is_partial(self) -> bool:
        """True while a message has begun and is not complete."""
        return self._length is not None or self._at < len(self._buffer)

    @property
    def has_message(self) -> bool:
        """True while `next_message` has something to do."""
        return self._inflation is not None or (
            self._length is not None and len(self._buffer) - self._at >= self._length
        )

    def next_message(self) -> bytes | None:
        """Returns a message that is complete; None: there is none, or it takes another step (``has_message``).

        Raises InvalidRequest, Unsupported or Overloaded.
        """
        if self._inflation is None:
            length = self._length
            if length is None or len(self._buffer) - self._at < length:
                return None
            message = bytes(memoryview(self._buffer)[self._at : self._at + length])
            self._at += length
            self._length = None
            if self._at == len(self._buffer):
                self._buffer = bytearray()
                self._at = 0
            elif self._at > COMPACT_BYTES:
                del self._buffer[: self._at]
                self._at = 0
            compressed = self._compressed
            self._budget.give_back(length)
            self._read_prefix()
            if not compressed:
                return message
            self._inflation = _Inflation(message, self._encoding, self._budget)
        inflation = self._inflation
        try:
            inflated = inflation.step()
        finally:
            self._work += inflation.work
        if inflated is not None:
            self._inflation = None
        return inflated

    def take_work(self) -> int:
        """Returns what has been decompressed since it was asked last, in frames that are as much work."""
        work, self._work = self._work, 0
        return work

    def discard(self) -> None:
        """Forgets everything: no more will be asked for."""
        self._budget.give_back(len(self._buffer) - self._at)
        self._buffer, self._at, self._length = bytearray(), 0, None
        if self._inflation is not None:
            self._inflation.discard()
            self._inflation = None

    def _read_prefix(self) -> None:
        if len(self._buffer) - self._at < PREFIX.size:
            return
        flag, length = PREFIX.unpack_from(self._buffer, self._at)
        most = self._budget.shared.max_message_bytes
        if flag > 1:
            raise InvalidRequest(f"a message begins with 0 or 1, not with {flag}: this is not gRPC's framing")
        if flag and self._encoding not in WINDOW_BITS:
            raise Unsupported(f"messages compressed by {self._encoding[:40]!r} are not read here: gzip and deflate are")
        if length > most:
            raise Overloaded(f"Received message larger than max ({length} vs. {most} bytes)", retry_after_s=None)
        self._length, self._compressed = length, bool(flag)
        self._at += PREFIX.size
        self._budget.give_back(PREFIX.size)


class _Inflation:
    """A message that is being decompressed; what has come out so far counts."""

    def __init__(self, message: bytes, encoding: str, budget: ConnectionBudget) -> None:
        self._message = memoryview(message)
        self._at = 0
        self._encoding = encoding
        self._budget = budget
        self._inflater = zlib.decompressobj(WINDOW_BITS[encoding])
        self._pieces: list[bytes] = []
        self._size = 0
        self.work = 0
        """Of the last step, in frames."""

    def step(self) -> bytes | None:
        """Returns the whole once it is there; raises InvalidRequest or Overloaded."""
        most = self._budget.shared.max_message_bytes
        try:
            data = self._message[self._at : self._at + INFLATE_INPUT_BYTES]
            self.work = len(data) // WORK_INPUT_BYTES
            piece = self._inflater.decompress(data, INFLATE_BYTES)
        except zlib.error as error:
            self.discard()
            raise InvalidRequest(f"the message is not compressed by {self._encoding}, as it says: {error}") from error
        self.work += len(piece) // WORK_BYTES
        self._at += len(data) - len(self._inflater.unconsumed_tail)
        try:
            if self._size + len(piece) > most:
                message = f"Received message larger than max (over {most} bytes when decompressed)"
                raise Overloaded(message, retry_after_s=None)
            self._budget.take(len(piece))
        except Overloaded:
            self.discard()
            raise
        self._pieces.append(piece)
        self._size += len(piece)
        if not self._inflater.eof:
            if not piece and self._at == len(self._message):
                self.discard()
                raise InvalidRequest(f"the message ends in the middle of its {self._encoding} data")
            return None
        whole = b"".join(self._pieces) if len(self._pieces) > 1 else piece
        self.discard()
        return whole

    def discard(self) -> None:
        self._budget.give_back(self._size)
        self._pieces, self._size = [], 0
