"""Image files and raw pixels become the uint8 array that a model takes.

What a decoder raises on hostile bytes becomes a sentence.

Pillow decodes them, outside of the interpreter lock. Small simple PNG and JPEG files, with which it spends most of its
time in Python, are decoded by kornia-rs instead, to the same pixels: PNG of 28 x 28 in 5 µs instead of 35, JPEG in 8
instead of 52, so that a Classify call takes 44 µs of the server's processor time instead of 86 (mnist-tiny, 50 calls
at a time). What kornia-rs refuses, Pillow gets after all; and kornia-rs refuses what Pillow does, but for one thing
that no accident brings about: in a PNG, what follows the last row in the compressed data, its Adler-32, may be wrong
if the CRC-32 over it is right.

JPEG files are decoded at 1/2, 1/4 or 1/8 of their size where both sides stay at least MARGIN times as long as the
model's longer side: 6 ms for 2000 x 1500 pixels instead of 15. Over 40 files (enlarged CIFAR-10
images, gradients, edges, noise) at 28 x 28 grey and 32 x 32 RGB, the pixels differ from those of a full decoding by 4
of 255 at most, 0.17 on average; with half the margin by 11 and 0.46.

training has its own copy of this rule; a test holds the two equal.
"""

from dataclasses import dataclass

import numpy as np
from kornia_rs.io import decode_image_jpegturbo, decode_image_png_u8
from PIL import Image, UnidentifiedImageError
from PIL.Image import Transpose

from ..errors import InvalidRequest
from ..tensors import Array
from . import digits
from .file_kind import describe
from .load import FORMATS, LoadedImage, check_size, load
from .preprocessing import SIDEWAYS, Preprocessing, centre_box
from .sniff import ImageHeader, sniff

ACCEPTED = f"{', '.join(FORMATS[:-1])} and {FORMATS[-1]} files are accepted"
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
MARGIN = 4
"""How many pixels a reduced JPEG keeps, at least, along each side for one of the model's."""
UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
"""What turns an image upright, by its EXIF orientation."""
FILTERS = {resampling.name.lower(): resampling for resampling in Image.Resampling}
AS_IT_IS = Preprocessing()


@dataclass(frozen=True)
class ImageShape:
    """What a model takes."""

    height: int
    width: int
    channels: int
    """1 grey, 3 RGB."""
    preprocessing: Preprocessing = AS_IT_IS
    """What its file asks to be done to images."""

    @property
    def dimensions(self) -> tuple[int, int, int]:
        """Height, width and channels, as an array has them."""
        return self.height, self.width, self.channels

    @property
    def longer_side(self) -> int:
        """In pixels, of what an image is scaled to before its centre is cropped; of the model where it is not."""
        resize = self.preprocessing.resize
        return max(resize) if isinstance(resize, tuple) else resize or max(self.height, self.width)

    def takes(self, dimensions: tuple[int, ...]) -> bool:
        """True for pixels of these dimensions if they are used as they are."""
        return dimensions == self.dimensions and not self.preprocessing.recolors


def decode(data: bytes, shape: ImageShape, max_pixels: int, header: ImageHeader | None = None) -> Array:
    """The image in a file of one of FORMATS as uint8 [height, width, channels].

    Turned upright as its EXIF says; ``header`` is what sniff says of it, if that is known. Raises InvalidRequest.
    """
    if not data:
        raise InvalidRequest("the image is empty: encoded bytes or pixels are expected")
    header = header or sniff(data)
    side = digits.WORKING_SIDE if shape.preprocessing.digits else MARGIN * shape.longer_side
    if header is not None and header.height * header.width <= max_pixels and not _is_reduced(header, side):
        pixels = _decode_simple(data, header)
        if pixels is not None:
            return pixels if _is_ready(pixels, shape) else _fit(_of_array(pixels), shape)
    return _decode_any(data, shape, side, max_pixels)


def _is_ready(pixels: Array, shape: ImageShape) -> bool:
    """True if a decoded image is what the model takes."""
    if not shape.takes(pixels.shape) or shape.preprocessing.resize is not None:
        return False
    return not shape.preprocessing.digits or digits.has_mnist_form(pixels[:, :, 0])


def _decode_simple(data: bytes, header: ImageHeader) -> Array | None:
    """uint8 [height, width, channels]; None if the file is not what it looked like."""
    mode = "mono" if header.channels == 1 else "rgb"
    try:
        if header.format == "PNG":
            pixels: Array = decode_image_png_u8(data, (header.height, header.width), mode)
        else:
            pixels = decode_image_jpegturbo(data, mode)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # a panic in Rust is no Exception
        return None
    return pixels if pixels.shape == (header.height, header.width, header.channels) else None


def _is_reduced(header: ImageHeader, side: int) -> bool:
    """Whether Pillow decodes the file at a fraction of its size."""
    return header.format == "JPEG" and min(header.height, header.width) >= 2 * side


def _decode_any(data: bytes, shape: ImageShape, side: int, max_pixels: int) -> Array:
    try:
        return _fit(load(data, side, max_pixels), shape)
    except InvalidRequest:
        raise
    except UnidentifiedImageError:
        told = describe(data) or "is of no known format"
        raise InvalidRequest(f"the image {told}; {ACCEPTED}") from None
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
    check_size(height, width, max_pixels)
    if len(data) != height * width * channels:
        raise InvalidRequest(
            f"pixels of {height} x {width} x {channels} take {height * width * channels} bytes, got {len(data)}"
        )
    pixels = np.frombuffer(data, np.uint8).reshape(height, width, channels)
    if pixels.shape == shape.dimensions:  # its sender has scaled and cropped it already
        return _recolor(pixels, shape.preprocessing)
    return _fit(_of_array(pixels), shape)


def _of_array(pixels: Array) -> LoadedImage:
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    return LoadedImage(image, image.size)


def _fit(loaded: LoadedImage, shape: ImageShape) -> Array:
    """Colours and size of the model: transparency over white, antialiased resize, centre crop."""
    image, turn = _eight_bits(loaded.image), UPRIGHT.get(loaded.orientation)
    if shape.preprocessing.digits:
        digit = digits.normalize_digit(image if turn is None else image.transpose(turn))
        if digit is not None:
            return digit
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.new("RGBA", rgba.size, "white")
        image.alpha_composite(rgba)
    image = image.convert(MODES[shape.channels])
    size = (shape.height, shape.width) if loaded.orientation in SIDEWAYS else (shape.width, shape.height)
    image = _scale(image, loaded, size, shape.preprocessing)
    if turn is not None:
        image = image.transpose(turn)
    return _recolor(np.asarray(image).reshape(shape.dimensions), shape.preprocessing)


def _scale(image: Image.Image, loaded: LoadedImage, size: tuple[int, int], preprocessing: Preprocessing) -> Image.Image:
    """The centre of an image, resized with antialiasing as its file asks."""
    resampling = FILTERS[preprocessing.interpolation]
    placement = preprocessing.place(loaded.extent, size, loaded.orientation)
    if placement is None:
        return image if image.size == size else image.resize(size, resampling, centre_box(loaded.extent, size))
    if placement.is_long:
        return image.resize(size, resampling, placement.box(loaded.extent))
    return image.resize(placement.whole, resampling, (0, 0, *loaded.extent)).crop(placement.crop)


def _recolor(pixels: Array, preprocessing: Preprocessing) -> Array:
    """Polarity and order of colours; the pixels themselves where they stay."""
    if preprocessing.inverted:
        pixels = 255 - pixels
    return np.ascontiguousarray(pixels[:, :, ::-1]) if preprocessing.bgr else pixels


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey scaled to 8 bits: Pillow would clip the values instead."""
    if image.mode == "F":
        raise InvalidRequest(
            "the image's pixels are floating-point numbers, whose black and white are not known: "
            "save it with 8 or 16 bits a channel"
        )
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image, dtype=np.float64)
    return Image.fromarray(np.clip(values / 257 + 0.5, 0, 255).astype(np.uint8))
