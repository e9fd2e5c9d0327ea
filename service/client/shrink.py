"""Large photos become smaller before they are sent, to the pixels that the server would make of them.

The server decodes a JPEG at 1/2, 1/4 or 1/8 of its size where that leaves enough for the model (service.images.decode).
This does the same on this side, and leaves all else, the crop and the scaling, to the server. The reduced size must be
whole, because raw pixels cannot say that the last one is part of a pixel: 4032 x 3024 is at 1/8, and the model's pixels
are the very same. 4080 x 3060 is not, and is sent at 1/4: the model's pixels differ by ``MAX_DEVIATION`` at most.
A photo with an odd side is sent as it is. So is one of which the pixels are more bytes than the file.
"""

import io

from PIL import Image, ImageOps

from ..pb import image_classifier_pb2 as pb

THRESHOLD_BYTES = 4 * 2**20
"""Smaller files are sent as they are."""
MARGIN = 4
"""As service.images.decode has it, whose pixels these must be."""
DIGITS_SIDE = 448
"""As service.images.digits has it, for models of 28 x 28 grey images, which may be of digits."""
MAX_DEVIATION = 8
"""Of 255, where the reduced size is not the server's. Of noise, edges, rings and gradients, for models of 32 and 56
pixels, 7 is the most that was measured, and 0.7 the largest mean."""


def is_jpeg(start: bytes) -> bool:
    """True of the beginning of a JPEG file, the only one that can be decoded at a reduced size."""
    return start.startswith(b"\xff\xd8\xff")


def working_side(height: int, width: int, channels: int) -> int:
    """Shortest side, in pixels, that the server keeps of a photo for a model of this size."""
    return DIGITS_SIDE if (height, width, channels) == (28, 28, 1) else MARGIN * max(height, width)


def reduced(data: bytes, side: int) -> pb.Image:
    """The photo upright at a fraction of its size; the file as it is where that is no smaller, or not simple."""
    try:
        pixels = _reduced(data, side)
    except Exception:  # what is wrong with a file is for the server to say, and Pillow raises a dozen types
        pixels = None
    return pb.Image(encoded=data) if pixels is None else pb.Image(pixels=pixels)


def _reduced(data: bytes, side: int) -> pb.Pixels | None:
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        width, height = image.size
        wholes = (by for by in (8, 4, 2) if min(width, height) >= by * side and width % by == height % by == 0)
        scale = next(wholes, None)
        if scale is None or image.mode not in ("L", "RGB"):
            return None
        size, channels = (width // scale, height // scale), len(image.mode)
        if size[0] * size[1] * channels >= len(data):
            return None
        image.draft(None, size)
        upright = ImageOps.exif_transpose(image)
    return pb.Pixels(height=upright.height, width=upright.width, channels=channels, data=upright.tobytes())
