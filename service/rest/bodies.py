"""Bodies of requests and responses: limits in size and memory, and compression."""

import asyncio
import zlib
from collections.abc import Callable

from ..errors import Cancelled, InvalidRequest, Overloaded
from ..http2.deframer import WINDOW_BITS
from .exchange import Exchange
from .status import RETRY_S, HttpRefusal

LARGE_BODIES = 8
"""Bodies of the largest size that may be received at a time."""
INFLATE_BYTES = 2**20
ASIDE_BYTES = 2**16
"""Bodies from this length on are compressed and decompressed by another thread: it takes a millisecond."""
MIN_COMPRESSED_BYTES = 1024
"""Of a response; what is shorter fits a packet."""
LEVEL = 1
"""Of compression: tensors of floats hardly become shorter by more."""


class Bodies:
    """Reads the bodies of requests."""

    def __init__(self, max_bytes: int) -> None:
        """``max_bytes``: of one body, compressed or not."""
        self.max_bytes = max_bytes
        self._held = 0  # of all bodies that are not complete

    async def read(self, exchange: Exchange) -> bytes:
        """The whole body, decompressed.

        Raises Overloaded, InvalidRequest or HttpRefusal, and Cancelled where the client has gone.
        """
        decompress = self._decompressor(exchange)
        body = await self._receive(exchange)
        if decompress is None:
            return body
        if len(body) < ASIDE_BYTES:
            return decompress(body)
        return await asyncio.to_thread(decompress, body)

    def _decompressor(self, exchange: Exchange) -> Callable[[bytes], bytes] | None:
        """What undoes the body's encoding; a body that says that it is too long is not received at all."""
        length = exchange.header("content-length")
        if length is not None and int(length) > self.max_bytes:  # a number: the parser has looked
            raise self._too_large(f"{length}")
        encoding = exchange.header("content-encoding")
        if encoding is None or encoding == "identity":
            return None
        if encoding not in WINDOW_BITS:
            raise HttpRefusal(
                415,
                f"bodies compressed by {encoding[:40]!r} are not read here: gzip and deflate are",
                reason="unsupported",
                headers={"Accept-Encoding": "gzip, deflate"},
            )
        return lambda body: self._inflate(body, encoding)

    async def _receive(self, exchange: Exchange) -> bytes:
        pieces: list[bytes] = []
        size, more = 0, True
        try:
            while more:
                message = await exchange.receive()
                if message["type"] == "http.disconnect":
                    raise Cancelled("The caller went away.")
                piece, more = message.get("body", b""), message.get("more_body", False)
                size += len(piece)
                self._held += len(piece)
                self._check(size)
                pieces.append(piece)
            exchange.is_read = True
            return b"".join(pieces) if len(pieces) > 1 else pieces[0]
        finally:
            self._held -= size

    def _check(self, size: int) -> None:
        if size > self.max_bytes:
            raise self._too_large(f"{size} so far")
        if self._held > LARGE_BODIES * self.max_bytes:
            raise Overloaded(
                f"too many unfinished bodies at once: {self._held} bytes are held, "
                f"{LARGE_BODIES * self.max_bytes} may be. Try again later.",
                retry_after_s=RETRY_S,
                reason="uploads",
            )

    def _too_large(self, size: str) -> Overloaded:
        return Overloaded(f"Received message larger than max ({size} vs. {self.max_bytes} bytes)", retry_after_s=None)

    def _inflate(self, body: bytes, encoding: str) -> bytes:
        """What was compressed; stops where it becomes too long."""
        inflater = zlib.decompressobj(WINDOW_BITS[encoding])
        pieces: list[bytes] = []
        size, rest = 0, body
        try:
            while rest and not inflater.eof:
                pieces.append(inflater.decompress(rest, INFLATE_BYTES))
                rest = inflater.unconsumed_tail
                size += len(pieces[-1])
                if size > self.max_bytes:
                    raise self._too_large(f"over {self.max_bytes} when decompressed")
        except zlib.error as error:
            raise InvalidRequest(f"the body is not compressed by {encoding}, as it says: {error}") from error
        if not inflater.eof:
            raise InvalidRequest(f"the body ends in the middle of its {encoding} data")
        return b"".join(pieces)


async def compress(content: bytes, exchange: Exchange) -> tuple[bytes, dict[str, str]]:
    """The content of a response as its client takes it, and the header fields that tell of it."""
    accepted = exchange.header("accept-encoding")
    if accepted is None or len(content) < MIN_COMPRESSED_BYTES:
        return content, {}
    encoding = _chosen(accepted)
    if encoding is None:
        return content, {"Vary": "Accept-Encoding"}
    if len(content) < ASIDE_BYTES:
        compressed = _deflate(content, encoding)
    else:
        compressed = await asyncio.to_thread(_deflate, content, encoding)
    return compressed, {"Content-Encoding": encoding, "Vary": "Accept-Encoding"}


def _chosen(accepted: str) -> str | None:
    """The first of our encodings that the client takes; an encoding with ``q=0`` it does not."""
    taken = set()
    for part in accepted.lower().split(","):
        name, _, parameter = part.partition(";")
        if parameter.replace(" ", "").rstrip(".0") != "q=":
            taken.add(name.strip())
    return next((name for name in WINDOW_BITS if name in taken or "*" in taken), None)


def _deflate(content: bytes, encoding: str) -> bytes:
    deflater = zlib.compressobj(LEVEL, wbits=WINDOW_BITS[encoding])
    return deflater.compress(content) + deflater.flush()
