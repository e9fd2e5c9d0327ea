"""Pictures to pixels: whatever a person sends becomes the uint8 array that a model takes.

Pictures are hostile input: their size is checked before they are decoded, and what the decoder
raises becomes a sentence.

Pillow decides what a picture is, and decodes all that is out of the ordinary, or large: outside of the interpreter
lock. Small plain pictures, with which it spends most of its time in Python, are decoded by kornia-rs instead, which
holds the lock for 0.5 ms at most: PNG of 28 x 28 takes 10 µs instead of 37, JPEG 9 instead of 55. What kornia-rs
refuses, Pillow gets after all; and it refuses what Pillow does, but for one thing that no accident brings about: in a
PNG, what follows the last row in the compressed data, its Adler-32, may be wrong if the CRC-32 over it is right.
"""

import io
from dataclasses import dataclass

import numpy as np
from kornia_rs.io import decode_image_jpegturbo, decode_image_png_u8
from PIL import Image, ImageOps, UnidentifiedImageError

from service.errors import InvalidRequest
from service.images.sniff import ImageHeader, sniff
from service.tensors import Array

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class ImageShape:
    """What a model takes."""

    height: int
    width: int
    channels: int
    """1 grey, 3 RGB."""


def decode(data: bytes, shape: ImageShape, max_pixels: int, plain: ImageHeader | None = None) -> Array:
    """The picture in a PNG, JPEG, WebP, BMP or GIF file as uint8 [height, width, channels].

    Turned upright as its EXIF says; ``plain`` is what sniff says of it, if that is known. Raises InvalidRequest.
    """
    if not data:
        raise InvalidRequest("the image is empty: encoded bytes or pixels are expected")
    plain = plain or sniff(data)
    if plain is not None and plain.height * plain.width <= max_pixels:
        pixels = _decode_simple(data, plain)
        if pixels is not None:
            return _fit_array(pixels, shape)
    return _decode_any(data, shape, max_pixels)


def _decode_simple(data: bytes, plain: ImageHeader) -> Array | None:
    """uint8 [height, width, channels]; None if the file is not what it looked like."""
    mode = "mono" if plain.channels == 1 else "rgb"
    try:
        if plain.format == "PNG":
            pixels: Array = decode_image_png_u8(data, (plain.height, plain.width), mode)
        else:
            pixels = decode_image_jpegturbo(data, mode)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # a panic in Rust is no Exception
        return None
    return pixels if pixels.shape == (plain.height, plain.width, plain.channels) else None


def _decode_any(data: bytes, shape: ImageShape, max_pixels: int) -> Array:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            _check_size(picture.height, picture.width, max_pixels)
            picture.load()
            ImageOps.exif_transpose(picture, in_place=True)
            return _fit(picture, shape)
    except InvalidRequest:
        raise
    except UnidentifiedImageError:
        raise InvalidRequest(f"the image is not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file") from None
    except Exception as error:  # on hostile bytes decoders raise a dozen different types
        raise InvalidRequest(f"the image is broken and cannot be decoded: {error}") from error


def from_pixels(data: bytes, height: int, width: int, channels: int, shape: ImageShape, max_pixels: int) -> Array:
    """Raw pixels as uint8 [height, width, channels] of the model's shape; a view where they have it already.

    Raises InvalidRequest.
    """
    if channels not in MODES:
        raise InvalidRequest(f"pixels have {channels} channels; 1 (grey), 3 (RGB) and 4 (RGBA) are accepted")
    if height < 1 or width < 1:
        raise InvalidRequest(f"pixels are {height} high and {width} wide; both must be at least 1")
    _check_size(height, width, max_pixels)
    if len(data) != height * width * channels:
        raise InvalidRequest(
            f"pixels of {height} x {width} x {channels} take {height * width * channels} bytes, got {len(data)}"
        )
    return _fit_array(np.frombuffer(data, np.uint8).reshape(height, width, channels), shape)


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise InvalidRequest(f"the image has {height} x {width} pixels, more than the {max_pixels} that are accepted")


def _fit_array(pixels: Array, shape: ImageShape) -> Array:
    """As _fit, of uint8 [height, width, channels]; the very array where it has the model's shape."""
    if pixels.shape == (shape.height, shape.width, shape.channels):
        return pixels
    return _fit(Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels), shape)


def _fit(picture: Image.Image, shape: ImageShape) -> Array:
    """Colours and size of the model: transparency over white, centre crop to its aspect, antialiased resize."""
    if picture.mode.startswith(("I", "F")):
        picture = _eight_bits(picture)
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        picture = Image.new("RGBA", rgba.size, "white")
        picture.alpha_composite(rgba)
    picture = picture.convert(MODES[shape.channels])
    if picture.size != (shape.width, shape.height):
        picture = ImageOps.fit(picture, (shape.width, shape.height), Image.Resampling.BILINEAR)
    return np.asarray(picture).reshape(shape.height, shape.width, shape.channels)


def _eight_bits(picture: Image.Image) -> Image.Image:
    """16-bit grey to 8 bits: Pillow would clip the values instead of scaling them."""
    values = np.asarray(picture, dtype=np.float64)
    return Image.fromarray(np.clip(values / 257 + 0.5, 0, 255).astype(np.uint8))
