"""The frames of HTTP/2 as numbers and bytes: RFC 9113, sections 4 to 7."""

import struct
from enum import IntEnum
from functools import lru_cache
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""The client's connection preface (section 3.4)."""
DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY_FLAG: Final = 0x20
"""Flags; the first two are one bit of different frames."""
HEADER_TABLE_SIZE: Final = 0x1
ENABLE_PUSH: Final = 0x2
MAX_CONCURRENT_STREAMS: Final = 0x3
INITIAL_WINDOW_SIZE: Final = 0x4
MAX_FRAME_SIZE: Final = 0x5
MAX_HEADER_LIST_SIZE: Final = 0x6
"""Settings."""
DEFAULT_FRAME_SIZE: Final = 16_384
LARGEST_FRAME_SIZE: Final = 2**24 - 1
"""SETTINGS_MAX_FRAME_SIZE before a peer has set another, and the largest that may be set."""
DEFAULT_WINDOW: Final = 65_535
LARGEST_WINDOW: Final = 2**31 - 1
"""Flow-control windows: the initial size, and the largest."""
STREAM_ID_MASK: Final = 0x7FFF_FFFF
LAST_STREAM_ID: Final = STREAM_ID_MASK
"""The 31 bits of a stream identifier, and the highest of them."""

FRAME_HEADER: Final = struct.Struct(">HBBBL")
"""A frame's first 9 octets: length in 24 bits, type, flags, stream identifier."""
NUMBER: Final = struct.Struct(">L")
SETTING: Final = struct.Struct(">HL")


class ErrorCode(IntEnum):
    """Why a stream or a connection ends (section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class ProtocolError(Exception):
    """A connection error (section 5.4.1): GOAWAY is sent and the connection ends."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class StreamError(Exception):
    """A stream error (section 5.4.2): RST_STREAM is sent and the connection lives on."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Returns a whole frame."""
    return FRAME_HEADER.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream_id) + payload


def settings(values: dict[int, int]) -> bytes:
    """Returns a SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(SETTING.pack(key, value) for key, value in values.items()))


def window_update(stream_id: int, increment: int) -> bytes:
    """Returns a WINDOW_UPDATE frame for a stream or (0) for the connection."""
    return frame(WINDOW_UPDATE, 0, stream_id, NUMBER.pack(increment))


def rst_stream(stream_id: int, code: ErrorCode) -> bytes:
    """Returns a RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream_id, NUMBER.pack(code))


def goaway(last_stream_id: int, code: ErrorCode = ErrorCode.NO_ERROR, reason: str = "") -> bytes:
    """Returns a GOAWAY frame."""
    return frame(GOAWAY, 0, 0, NUMBER.pack(last_stream_id) + NUMBER.pack(code) + reason.encode())


@lru_cache(maxsize=1024)
def frame_start(kind: int, flags: int, length: int) -> bytes:
    """Returns a frame header without the stream identifier, which follows it."""
    return FRAME_HEADER.pack(length >> 8, length & 0xFF, kind, flags, 0)[:5]


def header_frames(stream_id: int, block: bytes, flags: int, max_frame_size: int) -> bytes:
    """Returns a header block as HEADERS and, where it is longer than a frame may be, CONTINUATION frames."""
    if len(block) <= max_frame_size:
        return frame(HEADERS, flags | END_HEADERS, stream_id, block)
    parts = [block[at : at + max_frame_size] for at in range(0, len(block), max_frame_size)]
    frames = [frame(HEADERS, flags, stream_id, parts[0])]
    frames += [frame(CONTINUATION, 0, stream_id, part) for part in parts[1:-1]]
    return b"".join([*frames, frame(CONTINUATION, END_HEADERS, stream_id, parts[-1])])


def unpadded(data: bytes, start: int, stop: int) -> tuple[int, int]:
    """Returns where a padded frame's content is; raises ProtocolError."""
    if start == stop or data[start] >= stop - start:
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "more padding than frame")
    return start + 1, stop - data[start]


def exactly(form: struct.Struct, data: bytes, start: int, stop: int) -> tuple[int, ...]:
    """Returns the numbers of a frame that has these and nothing else; raises ProtocolError."""
    if stop - start != form.size:
        raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {stop - start} bytes, not {form.size}")
    return form.unpack_from(data, start)
