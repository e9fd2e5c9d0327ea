"""Image files → pixels of a network's size, by the very rule of the server, so that training sees what serving sees.

The server has its own copy of the rule, because neither package imports the other; a test holds the two equal.
"""

import io
import warnings
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.Image import Transpose
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import DataError
from ..preprocessing import SIDEWAYS, Preprocessing

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
"""torchvision's ImageFolder has the same, without the last."""
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
"""Of the first image in each file."""
MODES = {1: "L", 3: "RGB"}
MARGIN = 4
"""How many pixels a reduced JPEG keeps, at least, along each side for one of the network's."""
JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
FILLERS = (b"\xc9" * 64, b"\xe9" * 64)
"""Coded pixels to a JPEG decoder that still lacks some, which change the image; skipped where it lacks none."""
ORIENTATION = 0x0112
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
# Pillow decodes outside of the interpreter lock, and disks answer several at once.
THREADS = 8
# Broken files that are named in one sentence; the others are counted.
NAMED = 3


def read(path: Path, shape: tuple[int, int, int], rule: Preprocessing | None = None) -> NDArray[np.uint8]:
    """Decode one file to uint8 of `shape` (height, width, channels: 1 grey, 3 RGB).

    Turned upright as its EXIF says, 16-bit grey scaled to 8, transparency laid over white, resized with antialiasing
    and cropped around the centre as the rule says, without one to the shape's aspect ratio; a large JPEG is decoded at
    a fraction of its size. Raises whatever Pillow's decoders raise.
    """
    rule = rule or _plain(shape)
    height, width, channels = shape
    side = max(rule.resize) if isinstance(rule.resize, tuple) else rule.resize or max(height, width)
    result, extent, orientation = _open(path.read_bytes(), MARGIN * side)
    result = _convert(result, channels)
    size = (height, width) if orientation in SIDEWAYS else (width, height)
    result = rule.scale(result, extent, size, orientation)
    if orientation in UPRIGHT:
        result = result.transpose(UPRIGHT[orientation])
    return _recolor(np.asarray(result).reshape(shape), rule)


def prepare(image: Image.Image | NDArray[np.uint8], rule: Preprocessing) -> NDArray[np.uint8]:
    """Bring a decoded image, or pixels [height, width, channels], to what the rule says; as Classify does with pixels.

    Pixels of the right size are taken as they are, but for their colours.
    """
    if isinstance(image, np.ndarray):
        if image.shape == rule.shape:
            return _recolor(image, rule)
        image = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    height, width, channels = rule.shape
    result = _convert(image, channels)
    result = rule.scale(result, image.size, (width, height))
    return _recolor(np.asarray(result).reshape(rule.shape), rule)


def _plain(shape: tuple[int, int, int]) -> Preprocessing:
    return Preprocessing(shape[:2], (0.0,) * shape[2], (1.0,) * shape[2])


def _convert(image: Image.Image, channels: int) -> Image.Image:
    """Bring an image to grey or RGB."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose black and white are unknown")
    if image.mode.startswith("I"):  # Pillow itself would clip the values
        values = np.asarray(image, dtype=np.float64)
        image = Image.fromarray(np.clip(values / 257 + 0.5, 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.new("RGBA", rgba.size, "white")
        image.alpha_composite(rgba)
    return image.convert(MODES[channels])


def _recolor(pixels: NDArray[np.uint8], rule: Preprocessing) -> NDArray[np.uint8]:
    """Bring polarity and order of colours to what the rule says; the pixels themselves where they stay."""
    if rule.polarity == "inverted":
        pixels = 255 - pixels
    return np.ascontiguousarray(pixels[:, :, ::-1]) if rule.colors == "BGR" else pixels


def _open(data: bytes, side: int) -> tuple[Image.Image, tuple[float, float], int]:
    """Decode a file; a JPEG may lack its end marker, but no pixels."""
    try:
        return _load(data, side)
    except OSError:
        if not data.startswith(JPEG_START) or data.endswith(JPEG_END):
            raise
        start = data.removesuffix(b"\xff")
        loaded, *filled = (_load(start + filler + JPEG_END, side) for filler in (b"", *FILLERS))
        if any(other[0].tobytes() != loaded[0].tobytes() for other in filled):
            raise
        return loaded


def _load(data: bytes, side: int) -> tuple[Image.Image, tuple[float, float], int]:
    """Give an image, the width and height that hold it, and its EXIF orientation, which is 1 where it is upright.

    JPEG is decoded at a fraction of its size, as long as no side becomes shorter than `side`.
    """
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        full_size = image.size
        drafted = image.draft(None, (side, side))
        image.load()
        if drafted is not None and image.size != full_size:
            return image, drafted[1][2:], image.getexif().get(ORIENTATION, 1)
        ImageOps.exif_transpose(image, in_place=True)
        return image, image.size, 1


def read_all(
    paths: Sequence[Path],
    shape: tuple[int, int, int],
    console: Console,
    rule: Preprocessing | None = None,
    into: NDArray[np.uint8] | None = None,
) -> torch.Tensor:
    """Decode files to uint8 [N, height, width, channels], as the rule says, in threads, with a bar on a terminal.

    They are put `into` an array, if there is one. Raises DataError that names the first files that cannot be decoded,
    and counts the others.
    """
    pixels = np.empty((len(paths), *shape), np.uint8) if into is None else into
    waiting = deque(enumerate(paths))
    failed: dict[int, str] = {}

    def work() -> None:
        while waiting:
            with suppress(IndexError):  # another thread took the last one
                row, path = waiting.popleft()
                try:
                    pixels[row] = read(path, shape, rule)
                except UnidentifiedImageError:
                    failed[row] = f"{path} (it is none of {', '.join(FORMATS)})"
                except Exception as error:  # on broken files decoders raise a dozen different types
                    failed[row] = f"{path} ({error})"

    columns = (TextColumn("reading images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        warnings.catch_warnings(),
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
        ThreadPoolExecutor(THREADS) as threads,
    ):
        # Pillow warns of odd metadata and of large images; what decodes is used all the same.
        warnings.simplefilter("ignore")
        bar = progress.add_task("", total=len(paths))
        workers = [threads.submit(work) for _ in range(THREADS)]
        try:
            while wait(workers, timeout=0.1).not_done:
                progress.update(bar, completed=len(paths) - len(waiting))
            progress.update(bar, completed=len(paths))
        finally:
            waiting.clear()  # after Ctrl-C the rest is left
    broken = [failed[row] for row in sorted(failed)]
    if broken:
        rest = f" and {len(broken) - NAMED:,} more" if len(broken) > NAMED else ""
        raise DataError(
            f"cannot be decoded: {', '.join(broken[:NAMED])}{rest}; mend or remove what is broken and run this again"
        )
    return torch.from_numpy(pixels)
