"""Headers of simple images are read, and nothing out of the ordinary passes for simple."""

import io
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.images.sniff import MAX_PARTS, MAX_SCANS, PNG_END, PNG_SIGNATURE, ImageHeader, sniff


def encoded(mode: str, size: tuple[int, int], file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert(mode).save(file, file_format, **options)
    return file.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(*before: bytes, after: bytes = b"", colour: int = 0, depth: int = 8, interlacing: int = 0) -> bytes:
    """A PNG of 5 x 4 pixels with chunks before and after those of the pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 4, depth, colour, 0, 0, interlacing))
    pixels = chunk(b"IDAT", zlib.compress(bytes(24)))
    return PNG_SIGNATURE + header + b"".join(before) + pixels + after + PNG_END


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">HH", marker, 2 + len(content)) + content


def after_start(data: bytes, *segments: bytes) -> bytes:
    """A JPEG with segments put in front of its own."""
    return data[:2] + b"".join(segments) + data[2:]


JPEG = encoded("RGB", (24, 16), "JPEG")


@pytest.mark.parametrize("size", [(1, 1), (28, 28), (7, 300)])
@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
@pytest.mark.parametrize(
    ("file_format", "options"),
    [("PNG", {}), ("PNG", {"dpi": (72, 72)}), ("JPEG", {}), ("JPEG", {"progressive": True, "comment": "hello"})],
)
def test_header_of_simple_image_is_read(
    file_format: Any, options: dict[str, Any], mode: str, channels: int, size: tuple[int, int]
) -> None:
    header = sniff(encoded(mode, size, file_format, **options))
    assert header == ImageHeader(file_format, size[1], size[0], channels)


@pytest.mark.parametrize("mode", ["1", "LA", "P", "RGBA", "I;16"])
def test_png_of_other_modes(mode: str) -> None:
    file = io.BytesIO()
    Image.new(mode, (8, 8)).save(file, "PNG")
    assert sniff(file.getvalue()) is None


@pytest.mark.parametrize("file_format", ["GIF", "BMP", "WEBP", "TIFF"])
def test_other_formats_are_not_simple(file_format: str) -> None:
    assert sniff(encoded("RGB", (8, 8), file_format)) is None


@pytest.mark.parametrize(
    "ancillary",
    [
        chunk(b"gAMA", struct.pack(">I", 45455)),
        chunk(b"cHRM", bytes(32)),
        chunk(b"sRGB", b"\0"),
        chunk(b"pHYs", bytes(9)),
    ],
)
def test_harmless_chunks_are_simple(ancillary: bytes) -> None:
    assert sniff(png(ancillary)) == ImageHeader("PNG", 4, 5, 1)


@pytest.mark.parametrize(
    "data",
    [
        png(chunk(b"tRNS", b"\0\0")),
        png(chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\0")),
        png(chunk(b"tEXt", b"transparency\0as Pillow would believe")),
        png(chunk(b"acTL", bytes(8))),
        png(chunk(b"gAMA", b"\0\0")),
        png(chunk(b"gAMA", bytes(4))[:-1] + b"\xff"),
        png(after=chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\0")),
        png(interlacing=1),
        png(depth=16),
        png(colour=3),
        png() + b"\0",
        png()[: -len(PNG_END)],
        PNG_SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 4, 8, 0, 0, 0, 0)) + PNG_END,
        PNG_SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 4, 8, 0, 0, 0, 0)) + png()[33:],
        PNG_SIGNATURE + chunk(b"gAMA", bytes(4)) + png()[8:],
    ],
)
def test_unusual_png_is_not_simple(data: bytes) -> None:
    assert sniff(data) is None


@pytest.mark.parametrize(
    "data",
    [
        after_start(JPEG, segment(0xFFE1, b"Exif\0\0MM\0*\0\0\0\x08\0\0")),
        after_start(JPEG, segment(0xFFE2, b"ICC_PROFILE\0\1\1")),
        after_start(JPEG, segment(0xFFEE, b"Adobe\0\x64\0\0\0\0\0")),
        after_start(JPEG, segment(0xFFE0, b"JFXX\0" + bytes(9))),
        after_start(JPEG, segment(0xFFE0, b"JFIF\0")),
        after_start(JPEG, b"\xff\xfe\0\1"),
        after_start(JPEG, segment(0xFFC0, struct.pack(">BHHB", 12, 16, 24, 3) + bytes(9))),
        after_start(JPEG, segment(0xFFC9, struct.pack(">BHHB", 8, 16, 24, 3) + bytes(9))),
        after_start(JPEG, segment(0xFFC0, struct.pack(">BHHB", 8, 16, 24, 3) + bytes(8))),
        after_start(JPEG, segment(0xFFC0, struct.pack(">BHHB", 8, 0, 24, 3) + bytes(9))),
        after_start(JPEG, b"\xff\xda\0\x02"),
        JPEG[:2] + b"\xff" + JPEG[2:],
        JPEG[:100],
        JPEG[:-2] + b"\xff\xda" * MAX_SCANS + JPEG[-2:],
        encoded("CMYK", (8, 8), "JPEG"),
    ],
)
def test_unusual_jpeg_is_not_simple(data: bytes) -> None:
    assert sniff(data) is None


@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
def test_large_images_are_not_simple(file_format: str) -> None:
    assert sniff(encoded("L", (256, 256), file_format)) is not None
    assert sniff(encoded("L", (257, 256), file_format)) is None


@pytest.mark.parametrize(
    "data", [png(*[chunk(b"IDAT", b"")] * MAX_PARTS), after_start(JPEG, *[segment(0xFFFE, b"")] * MAX_PARTS)]
)
def test_many_parts_are_not_simple(data: bytes) -> None:
    assert sniff(data) is None


@pytest.mark.parametrize("data", [png(chunk(b"IDAT", bytes(10_000))), JPEG[:-2] + bytes(10_000) + JPEG[-2:]])
def test_overlong_file_is_not_simple(data: bytes) -> None:
    assert sniff(data) is None


@given(data=st.binary(max_size=200), start=st.sampled_from([b"", PNG_SIGNATURE, png()[:33], JPEG[:2], JPEG[:200]]))
def test_any_bytes_can_be_sniffed(data: bytes, start: bytes) -> None:
    header = sniff(start + data)
    assert header is None or (header.height > 0 and header.width > 0 and header.channels in (1, 3))
