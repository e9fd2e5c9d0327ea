"""Simple image files: small PNG and JPEG files of which every decoder makes the same pixels.

8-bit grey or RGB, without transparency, interlacing, rotation, colour profiles, text or odd chunks. Nothing is decoded
here, and whatever is out of the ordinary is not simple. It takes 3 µs, and at worst one more for each kB.

PNG: https://www.w3.org/TR/png-3/, JPEG: https://www.w3.org/Graphics/JPEG/itu-t81.pdf, annex B.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import Literal

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_START = PNG_SIGNATURE + b"\0\0\0\x0dIHDR"
PNG_HEADER = struct.Struct(">II5s4x")
"""What follows in IHDR: width and height; depth, colour, compression, filter and interlacing; the checksum."""
PNG_CHANNELS = {b"\x08\0\0\0\0": 1, b"\x08\x02\0\0\0": 3}
"""Of 8 bits, neither palette nor transparency, and not interlaced."""
PNG_ANCILLARY = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9}
"""Chunks before the pixels that change none of them, and their lengths."""
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
CHUNK = struct.Struct(">I4s")
CHECKSUM = struct.Struct(">I")

JPEG_SIGNATURE = b"\xff\xd8\xff"
SEGMENT = struct.Struct(">HH")
FRAME = struct.Struct(">BHHB")
"""Precision, height, width, components."""
FRAMES = (0xFFC0, 0xFFC2)
"""Baseline and progressive, with Huffman codes."""
SCAN = 0xFFDA
JFIF = 0xFFE0
TABLES = (0xFFDB, 0xFFC4, 0xFFDD, 0xFFFE)
"""Quantisation, Huffman codes, restart interval; and comments."""
MAX_SCANS = 16
"""Usual are 1 and 10. Each goes over the whole image, however short it is in the file."""

MAX_PIXELS = 2**16
MAX_PARTS = 64
"""Chunks or segments; usual are 3 to 50."""
SLACK_BYTES = 4096
"""What a file may have beyond twice its pixels: headers, tables. More hides something, or takes long to read."""


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the header of a simple image file says."""

    format: Literal["PNG", "JPEG"]
    height: int
    width: int
    channels: int
    """1 grey, 3 RGB."""


def sniff(data: bytes) -> ImageHeader | None:
    """Reads the header of a simple image file; None if it is none. What the header says may still be wrong."""
    try:
        if data.startswith(PNG_SIGNATURE):
            return _png(data)
        if data.startswith(JPEG_SIGNATURE):
            return _jpeg(data)
    except struct.error:  # it ends too early
        pass
    return None


def _is_small(data: bytes, height: int, width: int, channels: int) -> bool:
    pixels = height * width
    return 0 < pixels <= MAX_PIXELS and len(data) <= 2 * pixels * channels + SLACK_BYTES


def _png(data: bytes) -> ImageHeader | None:
    """Accepts IHDR, harmless chunks, pixels, IEND, and nothing else."""
    if not data.startswith(PNG_START) or not data.endswith(PNG_END):
        return None
    width, height, kind = PNG_HEADER.unpack_from(data, len(PNG_START))
    channels = PNG_CHANNELS.get(kind)
    if channels is None or not _is_small(data, height, width, channels):
        return None
    end = len(data) - len(PNG_END)
    at, pixels = len(PNG_START) + PNG_HEADER.size, False
    for _ in range(MAX_PARTS):
        if at >= end:
            break
        length, name = CHUNK.unpack_from(data, at)
        if name == b"IDAT":
            pixels = True
        elif pixels or PNG_ANCILLARY.get(name) != length or not _is_intact(data, at, length):
            return None
        at += 12 + length
    return ImageHeader("PNG", height, width, channels) if at == end and pixels else None


def _is_intact(data: bytes, at: int, length: int) -> bool:
    """True if the checksum of a chunk is right; decoders differ in what they do where it is not."""
    (checksum,) = CHECKSUM.unpack_from(data, at + 8 + length)
    return zlib.crc32(data[at + 4 : at + 8 + length]) == int(checksum)


def _jpeg(data: bytes) -> ImageHeader | None:
    """Accepts one frame of grey or YCbCr, and only JFIF's header, tables and comments before the first scan."""
    header = None
    at = 2
    for _ in range(MAX_PARTS):
        marker, length = SEGMENT.unpack_from(data, at)
        if marker == SCAN:
            return header if data.count(b"\xff\xda") <= MAX_SCANS else None
        if marker in FRAMES and header is None:
            depth, height, width, channels = FRAME.unpack_from(data, at + 4)
            if depth != 8 or channels not in (1, 3) or length != 8 + 3 * channels:
                return None
            if not _is_small(data, height, width, channels):
                return None
            header = ImageHeader("JPEG", height, width, channels)
        elif marker == JFIF:
            if length < 16 or data[at + 4 : at + 9] != b"JFIF\0":
                return None
        elif marker not in TABLES or length < 2:
            return None
        at += 2 + length
    return None
