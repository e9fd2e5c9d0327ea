"""Picture files → pixels of a network's size, by the very rule of the server, so that training sees what serving sees.

The server has its own copy of the rule, because neither package imports the other; a test holds the two equal.
"""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track
from torchvision.datasets.folder import IMG_EXTENSIONS

from training.errors import DataError

EXTENSIONS = (*IMG_EXTENSIONS, ".gif")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
"""Of the first picture in each file."""
MODES = {1: "L", 3: "RGB"}
# Broken files that are named in one sentence; the others are counted.
NAMED = 3


def read(path: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Decode one file to uint8 of `shape` (height, width, channels: 1 grey, 3 RGB).

    Turned upright as its EXIF says, 16-bit grey scaled to 8, transparency laid over white, cropped around the centre
    to the shape's aspect ratio, and resized with antialiasing. Raises whatever Pillow's decoders raise.
    """
    height, width, channels = shape
    with Image.open(path, formats=FORMATS) as picture:
        picture.load()
        ImageOps.exif_transpose(picture, in_place=True)
        result: Image.Image = picture
        if picture.mode == "F":
            raise ValueError("its pixels are floating-point numbers, whose black and white nobody knows")
        if picture.mode.startswith("I"):  # Pillow itself would clip the values
            values = np.asarray(picture, dtype=np.float64)
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
    pixels = torch.empty((len(paths), *shape), dtype=torch.uint8)
    broken: list[str] = []
    Image.init()  # here, rather than in every thread at once
    with warnings.catch_warnings(), ThreadPoolExecutor() as threads:
        # Pillow warns of odd metadata and of large pictures; what decodes is used all the same.
        warnings.simplefilter("ignore")
        results = threads.map(partial(_try_to_read, shape=shape), paths)
        shown = track(
            results,
            "reading pictures",
            total=len(paths),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        try:
            for row, (path, result) in enumerate(zip(paths, shown, strict=True)):
                if isinstance(result, Exception):
                    broken.append(f"{path} ({result})")
                else:
                    pixels[row] = torch.from_numpy(result)
        finally:
            threads.shutdown(cancel_futures=True)  # after Ctrl-C nobody waits for the rest
    if broken:
        rest = f" and {len(broken) - NAMED:,} more" if len(broken) > NAMED else ""
        raise DataError(
            f"cannot be decoded: {', '.join(broken[:NAMED])}{rest}; mend or remove what is broken and run this again"
        )
    return pixels


def _try_to_read(path: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8] | Exception:
    try:
        return read(path, shape).copy()  # Pillow's own arrays are read-only
    except Exception as error:  # on broken files decoders raise a dozen different types
        return error
