"""What a file asks to be done to images before its model takes them: size, crop, filter, colours.

The steps are those of torchvision's and timm's transforms for Pillow images: resize, then crop the centre.
docs/file-format.md is the contract. training has its own copy of this rule; a test holds the two equal.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""

FILTERS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
"""Pillow's; all but the first are widened where they shrink (antialiased)."""
CHOICES = {
    "digits": ("mnist",),
    "interpolation": FILTERS,
    "colors": ("RGB", "BGR"),
    "polarity": ("normal", "inverted"),
}
MAX_WHOLE = 16
"""Pixels of a resized image for one of its crop, up to which it is made as a whole: Pillow counts the edges of a part
in float32, which changes one pixel in a thousand by 1 of 255."""
SIDEWAYS, MIRRORED_X, MIRRORED_Y = (5, 6, 7, 8), (2, 3, 7, 8), (3, 4, 6, 7)
"""EXIF orientations: those that swap the axes, and those in which an axis of the file runs backwards."""


@dataclass(frozen=True)
class Placement:
    """A resized image, and what is cropped from it."""

    whole: tuple[int, int]
    """Width and height."""
    crop: tuple[int, int, int, int]

    @property
    def is_long(self) -> bool:
        """True if the whole has many more pixels than are cropped, as of a panorama; it is better never made then."""
        left, top, right, bottom = self.crop
        return self.whole[0] * self.whole[1] > MAX_WHOLE * (right - left) * (bottom - top)

    def box(self, extent: tuple[float, float]) -> Box:
        """The part of an image of width and height ``extent`` that becomes the crop."""
        factors = [side / whole for side, whole in zip(extent, self.whole, strict=True)] * 2
        left, top, right, bottom = (place * factor for place, factor in zip(self.crop, factors, strict=True))
        return left, top, min(right, extent[0]), min(bottom, extent[1])


def centre_box(extent: tuple[float, float], size: tuple[int, int]) -> Box:
    """The largest part in the middle that has the aspect ratio of ``size``."""
    width, height = extent
    ratio = size[0] / size[1]
    crop_width, crop_height = (ratio * height, height) if width / height >= ratio else (width, width / ratio)
    left, top = (width - crop_width) / 2, (height - crop_height) / 2
    return left, top, left + crop_width, top + crop_height


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an image; by default the centre is cropped to the model's aspect ratio, and scaled."""

    resize: int | tuple[int, int] | None = None
    """The shorter side in pixels, or height and width, before the centre is cropped; None: only as far as needed."""
    interpolation: str = "bilinear"
    """One of FILTERS."""
    bgr: bool = False
    """True if channels stand in the order blue, green, red."""
    inverted: bool = False
    """True if each pixel is subtracted from 255."""
    digits: bool = False
    """True if digits are brought into MNIST's form."""

    @property
    def recolors(self) -> bool:
        """True if pixels of the right size are changed too."""
        return self.bgr or self.inverted

    def find_mismatch(self, height: int, width: int, channels: int) -> str:
        """What does not go with images of this shape, as a sentence; empty where all does."""
        sides = (self.resize, self.resize) if isinstance(self.resize, int) else self.resize or (height, width)
        if sides[0] < height or sides[1] < width:
            return f"it resizes images to {self.resize}, from which {height} x {width} pixels cannot be cropped"
        if self.bgr and channels != 3:
            return f"it orders colours as BGR, and its images have {channels} channel"
        return ""

    def place(self, extent: tuple[float, float], size: tuple[int, int], orientation: int) -> Placement | None:
        """Where the centre of ``size`` lies in a resized image of width and height ``extent``; None without a resize.

        All as the file has them, before it is turned upright as its EXIF ``orientation`` says.
        """
        if self.resize is None:
            return None
        width, height = extent
        if isinstance(self.resize, int):
            shorter, longer = sorted(extent)
            sides = (self.resize, int(self.resize * longer / shorter))
            whole = sides if width <= height else sides[::-1]
        else:
            whole = self.resize if orientation in SIDEWAYS else self.resize[::-1]
        left = _middle(whole[0], size[0], mirrored=orientation in MIRRORED_X)
        top = _middle(whole[1], size[1], mirrored=orientation in MIRRORED_Y)
        return Placement(whole, (left, top, left + size[0], top + size[1]))


def _middle(whole: int, part: int, *, mirrored: bool) -> int:
    """Where a part in the middle begins; an odd remainder is rounded to even, as upright images have it."""
    start = round((whole - part) / 2)
    return whole - part - start if mirrored else start


def read_preprocessing(facts: Mapping[str, Any]) -> Preprocessing:
    """Reads the facts of a file; raises ValueError for any that is not known, as the model would see other images."""
    for key, value in facts.items():
        if key == "resize":
            _check_resize(value)
        elif key not in CHOICES or value not in CHOICES[key]:
            raise ValueError(f"{key!r}: {value!r} is not known; 'resize' and {CHOICES} are")
    if "digits" in facts and len(facts) > 1:
        raise ValueError("'digits' goes with nothing else")
    resize = facts.get("resize")
    return Preprocessing(
        resize=tuple(resize) if isinstance(resize, list) else resize,
        interpolation=facts.get("interpolation", "bilinear"),
        bgr=facts.get("colors") == "BGR",
        inverted=facts.get("polarity") == "inverted",
        digits="digits" in facts,
    )


def _check_resize(value: object) -> None:
    sides = value if isinstance(value, list) and len(value) == 2 else [value]
    if not all(type(side) is int and 0 < side < 2**16 for side in sides):
        raise ValueError(f"'resize' is {value!r}: a whole number of pixels above 0, or [height, width], is expected")
