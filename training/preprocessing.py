"""How images are prepared for a model: size, crop, filter and colours for the server, mean and deviation for the graph.

The server has its own copy of the geometry, because neither package imports the other; a test holds the two equal.
"""

import math
from dataclasses import dataclass
from typing import Any

from PIL import Image

from .errors import ModuleError
from .recipes import Recipe

Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
MAX_WHOLE = 16
"""Pixels of a resized image for one of its crop, up to which it is made as a whole."""
SIDEWAYS, MIRRORED_X, MIRRORED_Y = (5, 6, 7, 8), (2, 3, 7, 8), (3, 4, 6, 7)
"""EXIF orientations: those that swap the axes, and those in which an axis of the file runs backwards."""


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an image before its network takes it."""

    size: tuple[int, int]
    """Height and width."""
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    """Of each channel, of pixels from 0 to 1, in the order of `colors`; one channel is grey, three are colours."""
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    resize: int | tuple[int, int] | None = None
    """The shorter side, or height and width, before the centre is cropped; None: as far as the size needs."""
    interpolation: str = "bilinear"
    """One of `FILTERS`."""
    colors: str = "RGB"
    polarity: str = "normal"
    """`inverted` subtracts each pixel from 255."""

    def __post_init__(self) -> None:
        """Raise ModuleError for what cannot be true."""
        self._check_numbers()
        self._check_choices()

    def _check_numbers(self) -> None:
        if len(self.size) != 2 or not all(isinstance(side, int) and 0 < side < 2**14 for side in self.size):
            raise ModuleError(f"size is {self.size}; height and width in pixels are expected, such as (224, 224)")
        if len(self.mean) not in (1, 3) or len(self.mean) != len(self.std):
            raise ModuleError(
                f"mean has {len(self.mean)} numbers and std {len(self.std)}; one each for grey images or three each "
                f"for colours are expected"
            )
        if not all(map(math.isfinite, self.mean)) or not all(math.isfinite(std) and std > 0 for std in self.std):
            raise ModuleError(f"mean is {self.mean} and std is {self.std}; finite numbers, std above 0, are expected")
        sides = (self.resize, self.resize) if isinstance(self.resize, int) else self.resize or self.size
        if sides[0] < self.size[0] or sides[1] < self.size[1]:
            raise ModuleError(f"images are resized to {self.resize}, from which {self.size} cannot be cropped")

    def _check_choices(self) -> None:
        for name, value, known in (
            ("interpolation", self.interpolation, tuple(FILTERS)),
            ("colors", self.colors, ("RGB", "BGR")),
            ("polarity", self.polarity, ("normal", "inverted")),
        ):
            if value not in known:
                raise ModuleError(f"{name} is {value!r}; it may be {', '.join(known)}")
        if self.colors == "BGR" and len(self.mean) == 1:
            raise ModuleError("colors is BGR, and mean has one number, for grey images; three are expected")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return (*self.size, len(self.mean))

    def facts(self) -> dict[str, Any]:
        """Give what the server has to know, for the file's metadata; what is as by default is left out."""
        found: dict[str, Any] = {}
        if self.resize is not None:
            found["resize"] = self.resize
        for name, default in (("interpolation", "bilinear"), ("colors", "RGB"), ("polarity", "normal")):
            if getattr(self, name) != default:
                found[name] = getattr(self, name)
        return found

    def scale(
        self, image: Image.Image, extent: tuple[float, float], size: tuple[int, int], orientation: int = 1
    ) -> Image.Image:
        """Give the centre of an image of width and height `extent`, resized with antialiasing to `size`.

        All as the file has them, before it is turned upright as its EXIF `orientation` says.
        """
        resampling = FILTERS[self.interpolation]
        if self.resize is None:
            return image if image.size == size else image.resize(size, resampling, centre_box(extent, size))
        whole = self._whole(extent, orientation)
        left = _middle(whole[0], size[0], mirrored=orientation in MIRRORED_X)
        top = _middle(whole[1], size[1], mirrored=orientation in MIRRORED_Y)
        crop = (left, top, left + size[0], top + size[1])
        if whole[0] * whole[1] <= MAX_WHOLE * size[0] * size[1]:
            return image.resize(whole, resampling, (0, 0, *extent)).crop(crop)
        factors = [side / pixels for side, pixels in zip(extent, whole, strict=True)] * 2
        box = [place * factor for place, factor in zip(crop, factors, strict=True)]
        return image.resize(size, resampling, (box[0], box[1], min(box[2], extent[0]), min(box[3], extent[1])))

    def _whole(self, extent: tuple[float, float], orientation: int) -> tuple[int, int]:
        """Give width and height of the resized image before its centre is cropped."""
        if isinstance(self.resize, int):
            shorter, longer = sorted(extent)
            sides = (self.resize, int(self.resize * longer / shorter))
            return sides if extent[0] <= extent[1] else (sides[1], sides[0])
        height, width = self.resize or self.size
        return (height, width) if orientation in SIDEWAYS else (width, height)


def rule_of(recipe: Recipe) -> Preprocessing | None:
    """Give how images are prepared for a library's network; None for ours, which take them cropped to their shape."""
    if recipe.preprocessing is None:
        return None
    told: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in recipe.preprocessing.items()
    }
    return Preprocessing(mean=tuple(recipe.mean), std=tuple(recipe.std), **told)


def centre_box(extent: tuple[float, float], size: tuple[int, int]) -> Box:
    """Give the largest part in the middle that has the aspect ratio of `size`."""
    width, height = extent
    ratio = size[0] / size[1]
    crop_width, crop_height = (ratio * height, height) if width / height >= ratio else (width, width / ratio)
    left, top = (width - crop_width) / 2, (height - crop_height) / 2
    return left, top, left + crop_width, top + crop_height


def _middle(whole: int, part: int, *, mirrored: bool) -> int:
    """Give the start of a part in the middle; an odd remainder is rounded to even, as upright images have it."""
    start = round((whole - part) / 2)
    return whole - part - start if mirrored else start


def resize_of(size: tuple[int, int], crop: float | None) -> int | tuple[int, int] | None:
    """Give what images are resized to where the centre's share `crop` is kept, as timm and torchvision count it."""
    if crop is None:
        return None
    if not 0 < crop <= 1:
        raise ModuleError(f"crop is {crop}; a share above 0, and 1 at most, is expected, such as 0.875")
    if size[0] != size[1]:
        raise ModuleError(f"crop is {crop} and size {size} is no square; give resize=(height, width) instead")
    return math.floor(size[0] / crop)
