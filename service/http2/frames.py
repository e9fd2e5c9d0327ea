"""The frames of HTTP/2 as numbers and bytes: RFC 9113, sections 4 to 7."""

import struct
from enum import IntEnum
from functools import lru_cache

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends first."""
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITISED = 0x1, 0x1, 0x4, 0x8, 0x20
"""Flags; the first two are one bit of different frames."""
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 0x3, 0x4, 0x5, 0x6
"""Settings."""
FRAME_BYTES = 16_384
"""The largest payload of a frame before anybody has set another limit, and the least that may be set."""
MOST_FRAME_BYTES = 2**24 - 1
WINDOW, MOST_WINDOW = 65_535, 2**31 - 1
"""Octets that may be sent at the start, and at most, before the receiver allows more."""
STREAM = 0x7FFF_FFFF
"""The bits of a stream's number; the highest of the 32 means nothing."""

HEAD = struct.Struct(">HBBBL")
"""A frame's first 9 octets: its payload's length in 24 bits, kind, flags, stream."""
NUMBER = struct.Struct(">L")
SETTING = struct.Struct(">HL")


class Code(IntEnum):
    """Why a stream or a connection ends."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class Fault(Exception):
    """The peer broke the protocol in a way that ends its connection."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    return HEAD.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def settings(values: dict[int, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(SETTING.pack(key, value) for key, value in values.items()))


def window_update(stream: int, octets: int) -> bytes:
    """Allows the peer to send so many octets more, on a stream or (0) on all of them together."""
    return frame(WINDOW_UPDATE, 0, stream, NUMBER.pack(octets))


def reset(stream: int, code: Code) -> bytes:
    """Ends a stream at once, both ways."""
    return frame(RST_STREAM, 0, stream, NUMBER.pack(code))


def go_away(last_stream: int, code: Code = Code.NO_ERROR, reason: str = "") -> bytes:
    """Tells the client to open no streams beyond the last one."""
    return frame(GOAWAY, 0, 0, NUMBER.pack(last_stream) + NUMBER.pack(code) + reason.encode())


@lru_cache(maxsize=1024)
def beginning(kind: int, flags: int, payload_bytes: int) -> bytes:
    """A frame's head without the stream's number, with which it goes on."""
    return HEAD.pack(payload_bytes >> 8, payload_bytes & 0xFF, kind, flags, 0)[:5]
