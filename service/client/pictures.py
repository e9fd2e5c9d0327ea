"""What a user may hand over as an image, checked before anything is sent and read when its turn comes."""

import io
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from PIL import ImageOps

from ..pb import image_classifier_pb2 as pb
from . import shrink
from .errors import UnusablePicture


@runtime_checkable
class Tensor(Protocol):
    """What NumPy can read: torch's tensors, others', and its own arrays."""

    def __array__(self, dtype: Any = None) -> npt.NDArray[Any]:
        """Give the array."""


Picture = str | os.PathLike[str] | bytes | bytearray | memoryview | npt.NDArray[np.uint8] | Tensor | PillowImage.Image
"""A file's path, the bytes of an image file, uint8 pixels, or a Pillow image.

Pixels are an array [H, W] or [H, W, C] with C of 1, 3 or 4; a tensor, torch's say, may also be [C, H, W]."""

Pictures = Picture | Iterable[Picture]
"""One image, or many; an array [N, H, W, C] is many, and so is a tensor [N, C, H, W]."""

CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Source:
    """One image that can be sent: it is read, or copied, only when ``read`` is called."""

    size: int
    """Bytes it adds to a message, about; never less, but for a pipe, which does not tell."""
    load: Callable[[], pb.Image]
    may_shrink: bool = False
    """True of a large file, which may be a JPEG."""
    side: int | None = None
    """Shortest side, in pixels, to which a JPEG may be reduced; None: it is sent as it is."""

    def read(self) -> pb.Image:
        """Read it, and reduce it where that is wanted. Raises UnusablePicture."""
        image = self.load()
        if self.side is None or not shrink.is_jpeg(image.encoded[:3]):
            return image
        return shrink.reduced(image.encoded, self.side)


def sources(pictures: Pictures, *, max_bytes: int) -> list[Source]:
    """Check every image, without reading files.

    Raises UnusablePicture, a line for each image that is missing, a folder, larger than ``max_bytes``,
    or not one of the accepted kinds.
    """
    found: list[Source] = []
    problems: list[str] = []
    for place, picture in enumerate(_many(pictures), 1):
        name = f"'{os.fspath(picture)}'" if isinstance(picture, str | os.PathLike) else f"image {place}"
        try:
            source = _source(picture)
            if source.size > max_bytes:
                raise UnusablePicture(
                    f"has {source.size / 2**20:.1f} MiB, more than the {max_bytes / 2**20:.1f} MiB "
                    "that a message holds: make it smaller"
                )
            found.append(source)
        except UnusablePicture as error:
            problems.append(f"{name} {error}")
    if problems:
        raise UnusablePicture("\n".join(problems))
    return found


def _many(pictures: Pictures) -> Iterable[Picture]:
    if isinstance(pictures, str | os.PathLike | bytes | bytearray | memoryview | PillowImage.Image):
        return [pictures]
    if isinstance(pictures, Tensor):
        array = _pixels(pictures)
        return list(array) if array.ndim == 4 else [array]
    return pictures


def _source(picture: Picture) -> Source:
    if isinstance(picture, str | os.PathLike):
        return _file(Path(picture))
    if isinstance(picture, bytes | bytearray | memoryview):
        encoded, size = picture, memoryview(picture).nbytes
        return Source(size, lambda: pb.Image(encoded=bytes(encoded)), may_shrink=size > shrink.THRESHOLD_BYTES)
    if isinstance(picture, PillowImage.Image):
        return _pillow(picture)
    if isinstance(picture, Tensor):
        return _array(_pixels(picture))
    raise UnusablePicture(
        f"is of type {type(picture).__name__}: expected a path, bytes, a NumPy array, a tensor or a Pillow image"
    )


def _pixels(tensor: Tensor) -> npt.NDArray[Any]:
    """An array as it is; a tensor's with the channels last, which torch has first. Raises UnusablePicture."""
    if isinstance(tensor, np.ndarray):
        return tensor
    try:
        array = np.asarray(tensor)
    except Exception as error:  # a tensor on a GPU, one that needs a gradient, a datatype that NumPy has not
        raise UnusablePicture(f"cannot be read as an array: {error}") from error
    if array.ndim not in (3, 4):
        return array
    first, last = array.shape[-3] in CHANNELS, array.shape[-1] in CHANNELS
    if first and last:
        raise UnusablePicture(
            f"is a tensor of shape {list(array.shape)}, whose channels may be first or last: "
            "give a NumPy array, where they are last"
        )
    return np.moveaxis(array, -3, -1) if first else array


def _file(path: Path) -> Source:
    try:
        status = path.stat()
    except OSError as error:
        raise UnusablePicture(f"cannot be read: {error.strerror}") from error
    if stat.S_ISDIR(status.st_mode):
        raise UnusablePicture(f"is a folder: name the images in it, such as {path / '*.png'}")
    if not os.access(path, os.R_OK):
        raise UnusablePicture("cannot be read: permission denied")
    return Source(
        status.st_size,
        lambda: pb.Image(encoded=_contents(path)),
        may_shrink=status.st_size > shrink.THRESHOLD_BYTES,
    )


def _contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:  # it changed after the check
        raise UnusablePicture(f"'{path}' cannot be read: {error.strerror}") from error


def _array(pixels: npt.NDArray[np.uint8]) -> Source:
    if pixels.dtype != np.uint8:
        raise UnusablePicture(f"is an array of {pixels.dtype}: expected uint8, values from 0 to 255")
    shape = (*pixels.shape, 1) if pixels.ndim == 2 else pixels.shape
    if len(shape) != 3 or shape[2] not in CHANNELS or pixels.size == 0:
        raise UnusablePicture(
            f"is an array of shape {list(pixels.shape)}: expected [height, width] or [height, width, channels] "
            "with 1, 3 or 4 channels; many images in one array are [images, height, width, channels]"
        )
    height, width, channels = shape
    return Source(
        pixels.nbytes,
        lambda: pb.Image(pixels=pb.Pixels(height=height, width=width, channels=channels, data=pixels.tobytes())),
    )


def _pillow(picture: PillowImage.Image) -> Source:
    """Upright, as raw pixels; 16-bit grey as PNG, so that the server's own rule makes 8 bits of it."""
    if picture.mode == "F":
        raise UnusablePicture("has floating-point pixels (mode F): convert it to 8 bits a channel first")
    try:
        upright = ImageOps.exif_transpose(picture)
        if upright.mode.startswith("I"):
            file = io.BytesIO()
            upright.convert("I;16").save(file, format="PNG", compress_level=1)
            return _source(file.getvalue())
        colours = "RGBA" if upright.has_transparency_data else "L" if upright.mode in ("1", "L") else "RGB"
        return _array(np.asarray(upright.convert(colours)))
    except (OSError, ValueError) as error:  # Pillow reads a file only when its pixels are wanted
        raise UnusablePicture(f"cannot be read by Pillow: {error}") from error
