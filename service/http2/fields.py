"""Header blocks: what a request's says, and the few that we send."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar
from urllib.parse import quote

from service.http2.frames import Code, Fault
from service.http2.table import BadBlock, Decoder, TooLong

MAX_LIST_BYTES = 16_384
"""Of a request's fields, as HPACK counts them."""
MOST_BLOCKS = 1024
"""Blocks remembered for a connection. Past that all are forgotten, and learned anew."""
MOST_BLOCK_BYTES = 1024
"""Of a block worth remembering; usual are 10 to 100."""
MAX_MESSAGE_CHARACTERS = 2_048
"""Of an error's message: clients limit what trailers they take (8 KiB is usual), and quoting may treble it."""
TIMEOUT = re.compile(r"(\d{1,8})([HMSmun])")
UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RequestHead(Generic[T]):
    """What a request's fields say, as far as a gRPC server asks."""

    method: T
    """What its path stands for."""
    timeout_s: float | None
    encoding: str
    """Of compressed messages: ``identity``, ``gzip``, ``deflate`` or what it may be."""


class FieldReader(Generic[T]):
    """Reads the header blocks of one connection, each of which may change what the next ones mean.

    Clients repeat themselves: a block that was seen before, and found the same table, says the same. That takes
    0.1 µs instead of 9.
    """

    def __init__(self, method_of: Callable[[str], T]) -> None:
        """``method_of`` is asked for what a path stands for."""
        self._method_of = method_of
        self._decoder = Decoder(MAX_LIST_BYTES)
        self.known: dict[bytes, RequestHead[T]] = {}
        """What blocks say that were seen before, for who cannot wait."""

    def read(self, block: bytes) -> RequestHead[T]:
        """A request's head; raises Fault, or Malformed where this request alone is wrong."""
        head = self.known.get(block)
        if head is None:
            fields, kept = self._decode(block)
            head = self._understand(fields)
            if kept and len(block) <= MOST_BLOCK_BYTES:
                if len(self.known) >= MOST_BLOCKS:
                    self.known.clear()
                self.known[block] = head
        return head

    def skip(self, block: bytes) -> None:
        """Reads a block whose fields nobody needs (trailers), because it may change the table."""
        if block not in self.known:
            self._decode(block)

    def _decode(self, block: bytes) -> tuple[dict[bytes, bytes], bool]:
        """The fields, the last of each name, and whether the table is as it was before."""
        changes = self._decoder.changes
        try:
            fields = dict(self._decoder.decode(block))
        except TooLong as error:
            raise Fault(Code.ENHANCE_YOUR_CALM, str(error)) from error
        except BadBlock as error:
            raise Fault(Code.COMPRESSION_ERROR, f"a header block cannot be decoded: {error}") from error
        kept = self._decoder.changes == changes
        if not kept and self.known:
            self.known.clear()
        return fields, kept

    def _understand(self, fields: dict[bytes, bytes]) -> RequestHead[T]:
        def text(name: bytes, default: str = "") -> str:
            return fields[name].decode("latin-1") if name in fields else default

        if b":path" not in fields or text(b":method") != "POST":
            raise Malformed(405, "gRPC asks by POST, with a path")
        if not text(b"content-type").startswith("application/grpc"):
            raise Malformed(415, f"gRPC's content-type is application/grpc, not {text(b'content-type')[:80]!r}")
        timeout_s = None
        if b"grpc-timeout" in fields:
            timeout = text(b"grpc-timeout")
            match = TIMEOUT.fullmatch(timeout)
            if match is None:
                raise Malformed(400, f"{timeout[:80]!r} is no grpc-timeout: up to 8 digits and one of H, M, S, m, u, n")
            timeout_s = int(match[1]) * UNITS[match[2]]
        return RequestHead(self._method_of(text(b":path")), timeout_s, text(b"grpc-encoding", "identity"))


class Malformed(Exception):
    """A request that is none of gRPC's; it is answered with a status of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _integer(value: int, prefix_bits: int) -> bytes:
    """RFC 7541, section 5.1, with the bits before the prefix zero."""
    most = (1 << prefix_bits) - 1
    if value < most:
        return bytes([value])
    encoded = bytearray([most])
    value -= most
    while value >= 128:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def block(*fields: tuple[str, str]) -> bytes:
    """A header block of literals that change no table: whoever wrote the last one does not matter."""
    return b"".join(
        b"\0" + _integer(len(name), 7) + name + _integer(len(value), 7) + value
        for name, value in ((name.encode("ascii"), value.encode("ascii")) for name, value in fields)
    )


RESPONSE = block((":status", "200"), ("content-type", "application/grpc"))
DONE = block(("grpc-status", "0"))
"""The trailers of a call that went well."""
ENCODINGS = ("identity", "deflate", "gzip")
"""Of messages that we read; ours are never compressed."""


@lru_cache(maxsize=256)
def failure(code: int, message: str) -> bytes:
    """The trailers of a call that did not. ``message`` is shortened to what clients take."""
    quoted = quote(message[:MAX_MESSAGE_CHARACTERS], safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}~")
    return block(("grpc-status", str(code)), ("grpc-message", quoted), ("grpc-accept-encoding", ",".join(ENCODINGS)))


def refusal(status: int, message: str) -> bytes:
    """The whole answer to what is no request of gRPC's: a status of HTTP, and gRPC's for proxies that look for it."""
    return block((":status", str(status)), ("content-type", "application/grpc")) + failure(2, message)
