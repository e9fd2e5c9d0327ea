"""Image files → pixels of a network's size, by the very rule of the server, so that training sees what serving sees.

The server has its own copy of the rule, because neither package imports the other; a test holds the two equal.
"""

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
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
"""torchvision's ImageFolder has the same, without the last."""
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
"""Of the first image in each file."""
MODES = {1: "L", 3: "RGB"}
# Pillow decodes outside of the interpreter lock, and disks answer several at once.
THREADS = 8
# Broken files that are named in one sentence; the others are counted.
NAMED = 3


def read(path: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Decode one file to uint8 of `shape` (height, width, channels: 1 grey, 3 RGB).

    Turned upright as its EXIF says, 16-bit grey scaled to 8, transparency laid over white, cropped around the centre
    to the shape's aspect ratio, and resized with antialiasing. Raises whatever Pillow's decoders raise.
    """
    height, width, channels = shape
    with Image.open(path, formats=FORMATS) as opened:
        opened.load()
        ImageOps.exif_transpose(opened, in_place=True)
        result: Image.Image = opened
        if opened.mode == "F":
            raise ValueError("its pixels are floating-point numbers, whose black and white are unknown")
        if opened.mode.startswith("I"):  # Pillow itself would clip the values
            values = np.asarray(opened, dtype=np.float64)
            result = Image.fromarray(np.clip(values / 257 + 0.5, 0, 255).astype(np.uint8))
        if result.has_transparency_data:
            rgba = result.convert("RGBA")
            result = Image.new("RGBA", rgba.size, "white")
            result.alpha_composite(rgba)
        result = result.convert(MODES[channels])
        if result.size != (width, height):
            result = ImageOps.fit(result, (width, height), Image.Resampling.BILINEAR)
        return np.asarray(result).reshape(shape)


def read_all(paths: Sequence[Path], shape: tuple[int, int, int], console: Console) -> torch.Tensor:
    """Decode files to uint8 [N, height, width, channels], in threads, with a bar on a terminal.

    Raises DataError that names the first files that cannot be decoded, and counts the others.
    """
    pixels = np.empty((len(paths), *shape), np.uint8)
    waiting = deque(enumerate(paths))
    failed: dict[int, str] = {}

    def work() -> None:
        while waiting:
            with suppress(IndexError):  # another thread took the last one
                row, path = waiting.popleft()
                try:
                    pixels[row] = read(path, shape)
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
