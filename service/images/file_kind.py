"""What a file is that cannot be decoded here, and what its sender can do about it."""

import base64
import binascii

ACCEPTED = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
"""Beginnings of files that can be decoded; those of WebP, BMP and PPM have gaps."""
FOREIGN = {
    b"%PDF": "a PDF document",
    b"%!PS": "a PostScript document",
    b"\xc5\xd0\xd3\xc6": "a PostScript document",
    b"8BPS": "a Photoshop file",
    b"\0\0\1\0": "an ICO file",
    b"\0\0\0\x0cjP  ": "a JPEG 2000 file",
    b"\xff\x4f\xff\x51": "a JPEG 2000 file",
    b"\xff\x0a": "a JPEG XL file",
    b"\0\0\0\x0cJXL ": "a JPEG XL file",
    b"qoif": "a QOI file",
    b"v/1\x01": "an OpenEXR file",
    b"DDS ": "a DDS file",
    b"\x93NUMPY": "a NumPy file",
    b"\x1aE\xdf\xa3": "a video",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"version https://git-lfs": "a Git LFS pointer, which stands for the file",
}
BRANDS = {b"avif": "an AVIF file", b"avis": "an AVIF file"} | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "a HEIC file"
)
"""By the brands in an ISO base media file; every other is a video."""
MARKUP = {b"<svg": "an SVG drawing", b"<!doctype html": "an HTML page", b"<html": "an HTML page"}
LOOKED_AT = 1024
"""Bytes of the beginning."""

CONVERT = "convert it, to JPEG or PNG for example"


def describe(data: bytes) -> str | None:
    """What the file is, as ``is … : the remedy``; None if it is not known."""
    start = data[:LOOKED_AT]
    accepted = accepted_format(start)
    if accepted is not None:
        return f"begins as a {accepted} file does, but its header is broken: send the whole file, unchanged"
    kind = _foreign(start)
    if kind is not None:
        return f"is {kind}: {CONVERT}"
    return _text(start)


def accepted_format(start: bytes) -> str | None:
    """The format that can be decoded, by a file's first bytes."""
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    if start[:2] == b"BM" and start[6:10] == bytes(4):
        return "BMP"
    if start[:1] == b"P" and start[1:2] in b"123456" and start[2:3].isspace():
        return "PPM"
    return next((name for magic, name in ACCEPTED.items() if start.startswith(magic)), None)


def _foreign(start: bytes) -> str | None:
    if start[4:8] == b"ftyp":
        brands = [start[at : at + 4] for at in (8, *range(16, min(int.from_bytes(start[:4]), LOOKED_AT), 4))]
        names = [BRANDS[brand] for brand in brands if brand in BRANDS]
        return max(names, default="a video")  # AVIF files name brands of HEIC too
    for magic, name in FOREIGN.items():
        if start.startswith(magic):
            return name
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<"):
        return next((name for tag, name in MARKUP.items() if tag in text), None)
    return None


def _text(start: bytes) -> str | None:
    """An image in the form of text, or the place where it lies."""
    if start.startswith(b"data:"):
        return "is a data URL: send the bytes that the base64 text after its comma stands for"
    if start.startswith((b"http://", b"https://", b"file://")):
        return "is a URL, and nothing is fetched: send the bytes of the file"
    for name, decoder in (("base64", _from_base64), ("hexadecimal", _from_hexadecimal)):
        decoded = decoder(start)
        if decoded and (accepted_format(decoded) or _foreign(decoded)):
            return f"is {name} text: send the bytes that it stands for"
    return None


def _from_base64(start: bytes) -> bytes:
    text = b"".join(start.split()).rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    try:
        return base64.b64decode(text[: len(text) // 4 * 4], validate=True)
    except binascii.Error:
        return b""


def _from_hexadecimal(start: bytes) -> bytes:
    text = b"".join(start.split())
    try:
        return binascii.unhexlify(text[: len(text) // 2 * 2])
    except binascii.Error:
        return b""
