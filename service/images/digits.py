"""Digits as people write them become digits as MNIST has them: 28 x 28, white on black, in the middle.

The rule is that of MNIST's makers: the box around the ink is scaled into 20 x 20 with its aspect kept, and placed so
that the ink's centre of mass is the middle of 28 x 28 (http://yann.lecun.com/exdb/mnist/). The border tells the
paper's brightness; ink is what differs from it the most, lighter or darker.

An image that has MNIST's form already, in either polarity, keeps its very pixels: all 70,000 of MNIST do.
"""

import numpy as np
from PIL import Image

from ..tensors import Array

SIDE, BOX = 28, 20
DIMENSIONS = (SIDE, SIDE, 1)
"""Height, width and channels."""
CENTRE = 14
"""Where MNIST has the centre of mass; the middle of the first pixel is 0."""
MAX_OFF_CENTRE, MIN_BOX = 0.55, 19
"""MNIST's images have centres of mass from 13.48 to 14.50, and boxes whose longer side is 19 or 20."""
MIN_CONTRAST = 40
"""Of 255, between ink and paper. With less, the page is empty."""
MIN_INK_SIDE = 4
"""Pixels, of the ink's longer side. Less is dust."""
MAX_INK_SHARE = 0.6
"""Of the image. With more, it is a photograph."""
BOX_THRESHOLD = 0.2
"""Share of the strongest ink from which a pixel is inside of the box. Of photographed digits 97 % are read right by
mnist-tiny with 0.2 and 89 % with 0.1, which takes the paper's shading for ink."""
NOISE_SHARE = 0.9
"""Share of the border that deviates from the paper by no more than its noise."""
WORKING_SIDE = 448
"""Pixels: larger images are searched at a reduced size, whose shorter side is at least this long."""

_MOMENTS = np.stack([np.ones(SIDE), np.arange(SIDE)]).astype(np.float32)


def has_mnist_form(grey: Array) -> bool:
    """Whether a uint8 [height, width] image is white on black, of MNIST's size, and placed as MNIST's are.

    Takes about 15 µs, because every image of MNIST passes through here.
    """
    if grey.shape != (SIDE, SIDE):
        return False
    rim = (grey[0], grey[-1], grey[:, 0], grey[:, -1])
    if sum(edge.tobytes().count(0) for edge in rim) <= 2 * SIDE:
        return False
    ink = grey.astype(np.float32)
    columns, rows = _MOMENTS @ ink, _MOMENTS @ ink.T
    mass = columns[0].sum()
    if not mass:
        return False
    (left, right), (top, bottom) = _extent(columns[0]), _extent(rows[0])
    if not MIN_BOX <= max(right - left, bottom - top) <= BOX:
        return False
    off = max(abs(columns[1].sum() / mass - CENTRE), abs(rows[1].sum() / mass - CENTRE))
    return bool(off <= MAX_OFF_CENTRE)


def normalize_digit(image: Image.Image) -> Array | None:
    """The digit in an upright 8-bit image as uint8 [28, 28, 1]; None if it has no ink, or is no drawing."""
    grey = _on_paper(image, 255)
    if image.has_transparency_data:
        on_black = _on_paper(image, 0)
        if _contrast(on_black) > 2 * _contrast(grey):  # white strokes, which vanish on white
            grey = on_black
    factor = min(grey.size) // WORKING_SIDE
    if factor > 1:
        grey = grey.reduce(factor)
    pixels = np.asarray(grey)
    for candidate in (pixels, 255 - pixels):
        if has_mnist_form(candidate):
            return candidate[:, :, None]
    ink = _ink(pixels)
    return None if ink is None else _centred(ink)


def _on_paper(image: Image.Image, brightness: int) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("L")
    grey, alpha = image.convert("RGBA").convert("LA").split()
    paper = Image.new("L", image.size, brightness)
    paper.paste(grey, mask=alpha)
    return paper


def _contrast(grey: Image.Image) -> int:
    values = np.asarray(grey)
    return int(values.max()) - int(values.min())


def _ink(grey: Array) -> Array | None:
    """Ink as float32 [height, width], 0 on the paper; None if there is next to none."""
    border = np.sort(np.concatenate((grey[0], grey[-1], grey[:, 0], grey[:, -1])).astype(np.float32))
    paper = border[len(border) // 2]
    noise = np.sort(np.abs(border - paper))[int(NOISE_SHARE * len(border))]
    lighter, darker = grey.max() - paper, paper - grey.min()
    if max(lighter, darker) - noise < MIN_CONTRAST:
        return None
    ink = grey - paper if lighter > darker else paper - grey
    result: Array = np.maximum(ink - noise, 0)
    return result


def _centred(ink: Array) -> Array | None:
    """Scales the box around the ink into 20 x 20, and puts its centre of mass into the middle of 28 x 28."""
    inside = ink > BOX_THRESHOLD * ink.max()
    (left, right), (top, bottom) = _extent(inside.any(axis=0)), _extent(inside.any(axis=1))
    longer = max(right - left, bottom - top)
    if longer < MIN_INK_SIDE or inside.mean() > MAX_INK_SHARE:
        return None
    width, height = (max(1, round(side * BOX / longer)) for side in (right - left, bottom - top))
    box = Image.fromarray(ink[top:bottom, left:right])
    digit = np.asarray(box.resize((width, height), Image.Resampling.BILINEAR))
    digit = np.clip(digit * (255 / digit.max()), 0, 255)  # thin strokes become faint when they are scaled
    x, y = _place(digit.sum(axis=0)), _place(digit.sum(axis=1))
    result = np.zeros((SIDE, SIDE, 1), np.uint8)
    result[y : y + height, x : x + width, 0] = np.rint(digit)
    return result


def _extent(profile: Array) -> tuple[int, int]:
    """From where to where a profile is not zero."""
    places = np.flatnonzero(profile)
    return int(places[0]), int(places[-1]) + 1


def _place(profile: Array) -> int:
    """Where a box with this profile begins, if its centre of mass is to be in the middle."""
    centre = float(profile @ np.arange(len(profile))) / float(profile.sum())
    return min(max(round(CENTRE - centre), 0), SIDE - len(profile))
