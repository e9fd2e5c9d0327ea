"""Image files become Pillow images, decoded and safe.

Images are hostile input: what they would take to decode is checked before they are decoded.
"""

import io
import warnings
from dataclasses import dataclass

from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile

from ..errors import InvalidRequest
from .sniff import JPEG_SIGNATURE

Image.MAX_IMAGE_PIXELS = None  # --max-image-pixels is the limit, and is checked here
warnings.filterwarnings("ignore", module=r"PIL\.")  # of odd metadata: what decodes is used, and callers fill no log

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_PYTHON_PIXELS = 2**19
"""Of what Pillow decodes in Python, under the interpreter lock: PPM as text or of odd depths, compressed BMP. It takes
0.9 s for a million."""
TILE_TAGS = (322, 323)
"""TIFF's width and height of a tile, which is decoded as a whole however small the image is."""
ORIENTATION = 0x0112
JPEG_END = b"\xff\xd9"
FILLERS = (b"\xc9" * 64, b"\xe9" * 64)
"""Coded pixels to a JPEG decoder that still lacks some, which change the image; skipped where it lacks none. Of 1,340
cut files the two alone left 2 and 1 unnoticed; zeros left nine of ten."""


@dataclass(frozen=True)
class LoadedImage:
    """A decoded image."""

    image: Image.Image
    extent: tuple[float, float]
    """Width and height that hold the image; a reduced one may end within its last pixel."""
    orientation: int = 1
    """EXIF's, of a reduced image; others are upright."""


def load(data: bytes, side: int, max_pixels: int) -> LoadedImage:
    """Decodes a file; JPEG at a fraction of its size, as long as no side becomes shorter than ``side``.

    A JPEG may lack its end marker, but no pixels. Raises InvalidRequest, and whatever Pillow raises.
    """
    try:
        return _load_whole(data, side, max_pixels)
    except OSError:
        if not data.startswith(JPEG_SIGNATURE) or data.endswith(JPEG_END):
            raise
        start = data.removesuffix(b"\xff")
        loaded, *filled = (_load_whole(start + filler + JPEG_END, side, max_pixels) for filler in (b"", *FILLERS))
        if any(other.image.tobytes() != loaded.image.tobytes() for other in filled):
            raise
        return loaded


def _load_whole(data: bytes, side: int, max_pixels: int) -> LoadedImage:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        check_size(image.height, image.width, max_pixels)
        _check_decoder(image, max_pixels)
        full_size = image.size
        drafted = image.draft(None, (side, side))
        image.load()
        if drafted is not None and image.size != full_size:
            return LoadedImage(image, drafted[1][2:], image.getexif().get(ORIENTATION, 1))
        ImageOps.exif_transpose(image, in_place=True)
        return LoadedImage(image, image.size)


def _check_decoder(image: ImageFile, max_pixels: int) -> None:
    """Refuses what takes much longer, or much more memory, to decode than its size tells."""
    pixels = image.height * image.width
    if pixels > MAX_PYTHON_PIXELS and any(tile.codec_name in Image.DECODERS for tile in image.tile):
        raise InvalidRequest(
            f"the image has {image.height} x {image.width} pixels in a form of {image.format} that is slow to decode, "
            f"more than the {MAX_PYTHON_PIXELS} that are accepted of it: save it as PNG"
        )
    if image.format == "TIFF":
        width, height = (image.getexif().get(tag, 0) for tag in TILE_TAGS)
        check_size(height, width, max_pixels)


def check_size(height: int, width: int, max_pixels: int) -> None:
    """Raises InvalidRequest where an image has too many pixels."""
    if height * width > max_pixels:
        raise InvalidRequest(
            f"the image has {height} x {width} pixels, more than the {max_pixels} that are accepted: "
            "send a smaller one, or start the server with a larger --max-image-pixels"
        )
