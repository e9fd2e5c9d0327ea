"""What a user may hand over as a picture, checked before anything is sent and read when its turn comes."""

import io
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from PIL import ImageOps

from service.client.errors import UnusablePicture
from service.pb import image_classifier_pb2 as pb

Picture = str | os.PathLike[str] | bytes | bytearray | memoryview | npt.NDArray[np.uint8] | PillowImage.Image
"""A file's path, the bytes of an image file, an array [H, W] or [H, W, C] with C of 1, 3 or 4, or a Pillow picture."""

Pictures = Picture | Iterable[Picture]
"""One picture, or many; an array [N, H, W, C] is many."""


@dataclass(frozen=True)
class Source:
    """One picture that can be sent: it is read, or copied, only when ``read`` is called."""

    size: int
    """Bytes it adds to a message, about; never less, but for a pipe, which does not tell."""
    read: Callable[[], pb.Image]


def sources(pictures: Pictures, *, max_bytes: int) -> list[Source]:
    """Check every picture, without reading files.

    Raises UnusablePicture, a line for each picture that is missing, a folder, larger than ``max_bytes``,
    or not one of the accepted kinds.
    """
    found: list[Source] = []
    problems: list[str] = []
    for place, picture in enumerate(_many(pictures), 1):
        name = f"'{os.fspath(picture)}'" if isinstance(picture, str | os.PathLike) else f"picture {place}"
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
    if isinstance(pictures, np.ndarray):
        return list(pictures) if pictures.ndim == 4 else [pictures]
    if isinstance(pictures, str | os.PathLike | bytes | bytearray | memoryview | PillowImage.Image):
        return [pictures]
    return pictures


def _source(picture: Picture) -> Source:
    if isinstance(picture, str | os.PathLike):
        return _file(Path(picture))
    if isinstance(picture, bytes | bytearray | memoryview):
        encoded = picture
        return Source(memoryview(encoded).nbytes, lambda: pb.Image(encoded=bytes(encoded)))
    if isinstance(picture, np.ndarray):
        return _array(picture)
    if isinstance(picture, PillowImage.Image):
        return _pillow(picture)
    raise UnusablePicture(
        f"is of type {type(picture).__name__}: expected a path, bytes, a NumPy array or a Pillow picture"
    )


def _file(path: Path) -> Source:
    try:
        status = path.stat()
    except OSError as error:
        raise UnusablePicture(f"cannot be read: {error.strerror}") from error
    if stat.S_ISDIR(status.st_mode):
        raise UnusablePicture(f"is a folder: name the pictures in it, such as {path / '*.png'}")
    if not os.access(path, os.R_OK):
        raise UnusablePicture("cannot be read: permission denied")
    return Source(status.st_size, lambda: pb.Image(encoded=_contents(path)))


def _contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:  # it changed after the check
        raise UnusablePicture(f"'{path}' cannot be read: {error.strerror}") from error


def _array(pixels: npt.NDArray[np.uint8]) -> Source:
    if pixels.dtype != np.uint8:
        raise UnusablePicture(f"is an array of {pixels.dtype}: expected uint8, values from 0 to 255")
    shape = (*pixels.shape, 1) if pixels.ndim == 2 else pixels.shape
    if len(shape) != 3 or shape[2] not in (1, 3, 4) or pixels.size == 0:
        raise UnusablePicture(
            f"is an array of shape {list(pixels.shape)}: expected [height, width] or [height, width, channels] "
            "with 1, 3 or 4 channels; many pictures in one array are [pictures, height, width, channels]"
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
