"""A file that cannot be decoded is named, and its sender learns what to send instead."""

import base64
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.errors import InvalidRequest
from service.images.decode import ImageShape, decode
from service.images.file_kind import describe


def saved(file_format: str) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").save(file, file_format)
    return file.getvalue()


PNG = saved("PNG")


def media(*brands: bytes) -> bytes:
    """The beginning of an ISO base media file, as HEIC, AVIF and MP4 have it."""
    content = b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])
    return (4 + len(content)).to_bytes(4) + content + bytes(200)


KINDS = {
    "heic": (media(b"heic", b"mif1", b"heic"), "is a HEIC file: convert it, to JPEG or PNG"),
    "heic by a later brand": (media(b"mif1", b"heic"), "is a HEIC file"),
    "avif": (saved("AVIF"), "is an AVIF file: convert it"),
    "avif by a later brand": (media(b"mif1", b"avif", b"heic"), "is an AVIF file"),
    "video": (media(b"isom", b"mp42"), "is a video"),
    "jpeg 2000": (saved("JPEG2000"), "is a JPEG 2000 file"),
    "icon": (saved("ICO"), "is an ICO file"),
    "pdf": (saved("PDF"), "is a PDF document: convert it"),
    "svg": (b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg"/>', "is an SVG drawing"),
    "html": (b"\n<!DOCTYPE html><html><body>not found</body></html>", "is an HTML page"),
    "zip": (b"PK\x03\x04" + bytes(50), "is a ZIP archive"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a Git LFS pointer"),
    "base64": (base64.b64encode(PNG), "is base64 text: send the bytes that it stands for"),
    "base64 in lines": (base64.encodebytes(saved("JPEG")), "is base64 text"),
    "base64 for URLs": (base64.urlsafe_b64encode(saved("JPEG")).rstrip(b"="), "is base64 text"),
    "base64 of heic": (base64.b64encode(media(b"heic")), "is base64 text"),
    "hexadecimal": (PNG.hex().encode(), "is hexadecimal text"),
    "data url": (b"data:image/png;base64," + base64.b64encode(PNG), "is a data URL: send the bytes"),
    "url": (b"https://example.com/cat.jpg", "is a URL, and nothing is fetched: send the bytes of the file"),
    "cut png": (PNG[:12], "begins as a PNG file does, but its header is broken"),
    "cut webp": (saved("WEBP")[:12], "begins as a WEBP file does"),
    "text": (b"no image at all", "is of no known format"),
    "one byte": (b"x", "is of no known format"),
}


@pytest.mark.parametrize(("data", "words"), KINDS.values(), ids=KINDS)
def test_refusal_names_the_file(data: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(data, ImageShape(32, 32, 3), 10**6)
    assert str(caught.value).startswith(f"the image {words}")
    assert str(caught.value).endswith("; PNG, JPEG, WEBP, BMP, GIF, TIFF and PPM files are accepted")


def test_empty_file_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="the image is empty: encoded bytes or pixels are expected"):
        decode(b"", ImageShape(32, 32, 3), 10**6)


@given(data=st.binary(max_size=300), start=st.sampled_from([b"", b"<", b"data:", b"P6 ", b"\0\0\0\x20ftyp", b"iVBO"]))
def test_any_bytes_can_be_described(data: bytes, start: bytes) -> None:
    assert describe(start + data) != ""
