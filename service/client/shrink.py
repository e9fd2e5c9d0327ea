"""Large photos become smaller before they are sent, to the pixels that the server would make of them.

The server decodes a JPEG at 1/2, 1/4 or 1/8 of its size where that leaves enough for the model (service.images.decode).
This does the same on this side, and leaves all else, the crop and the scaling, to the server. Where the reduced size is
whole, as of 4032 x 3024 at 1/8, the server's pixels are the very same. Elsewhere the last row or column is part of a
pixel, which raw pixels cannot say, and is rounded: see ``MAX_DEVIATION``.
"""

import io

from PIL import Image, ImageOps

from service.pb import image_classifier_pb2 as pb

THRESHOLD_BYTES = 4 * 2**20
"""Smaller files are sent as they are."""
MARGIN = 4
"""As service.images.decode has it, whose pixels these must be."""
DIGITS_SIDE = 448
"""As service.images.digits has it, for models of 28 x 28 grey images, which may be of digits."""


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
        full_size = image.size
        drafted = image.draft(None, (side, side))
        if drafted is None or image.size == full_size or image.mode not in ("L", "RGB"):
            return None
        width, height = (max(1, round(length)) for length in drafted[1][2:])
        channels = len(image.mode)
        if width * height * channels >= len(data):
            return None
        image.load()
        exif = image.getexif()
        whole = image.crop((0, 0, width, height))
        whole.info["exif"] = exif.tobytes()
        upright = ImageOps.exif_transpose(whole)
    return pb.Pixels(height=upright.height, width=upright.width, channels=channels, data=upright.tobytes())
