"""The decoded pixels of a folder's images: in memory, or, where they are many, in a file that is mapped into it.

Such a file is read as batches ask for it, and the system drops pages of it when memory is needed for other things. It
is known again by the list of image files with their sizes and times; once removed it is decoded anew.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from ..files import SMALL_FILES, check_place, replacing
from ..lock import hold
from ..preprocessing import Preprocessing
from .duplicates import keep_apart
from .image_files import read_all

# Another way of decoding makes another number.
VERSION = 1


@dataclass(frozen=True)
class PixelCache:
    """Where pixels may lie on disk, and from how many bytes on they do."""

    folder: Path
    above: int = 2**30


@dataclass(frozen=True)
class Pixels:
    """Images that were read, but for those that are in another part too."""

    images: list[torch.Tensor]
    """Of each part, uint8 [N, height, width, channels]."""
    kept: list[list[int]]
    """The places of these images in the lists of files."""
    told: list[str]
    """Sentences about what was left out."""


def read_parts(
    parts: Sequence[Sequence[Path]],
    shape: tuple[int, int, int],
    console: Console,
    rule: Preprocessing | None,
    cache: PixelCache | None,
) -> Pixels:
    """Decode the files of each part, as the rule says; raises DataError, or BusyError while another process does."""
    count = sum(map(len, parts))
    if cache is None or count * math.prod(shape) <= cache.above:
        whole = read_all([path for part in parts for path in part], shape, console, rule)
        kept, told = keep_apart(parts, torch.split(whole, [len(part) for part in parts]))
        return _split(whole, parts, kept, told)
    size = count * math.prod(shape)
    pixels = cache.folder / f"pixels-{_key(parts, shape, rule)}.u8"
    notes = pixels.with_suffix(".json")
    if not (notes.exists() and pixels.exists() and pixels.stat().st_size == size):
        check_place(cache.folder, size + SMALL_FILES, "--checkpoints-dir")
        with hold(pixels.with_suffix(".lock"), f"the cache {pixels}"):
            console.print(f"{size / 2**20:,.0f} MiB of pixels are decoded into {pixels}", soft_wrap=True)
            _write(pixels, notes, parts, (count, *shape), console, rule)
    found = json.loads(notes.read_text(encoding="utf-8"))
    flat = torch.from_file(str(pixels), shared=True, size=size, dtype=torch.uint8)  # nothing writes to it
    return _split(flat.view(count, *shape), parts, found["kept"], found["told"])


def _write(
    pixels: Path,
    notes: Path,
    parts: Sequence[Sequence[Path]],
    shape: tuple[int, ...],
    console: Console,
    rule: Preprocessing | None,
) -> None:
    """Decode into a file, and note beside it what was left out."""
    with replacing(pixels) as temporary:
        array = np.memmap(temporary, np.uint8, "w+", shape=shape)
        height, width, channels = shape[1:]
        read_all([path for part in parts for path in part], (height, width, channels), console, rule, array)
        kept, told = keep_apart(parts, torch.split(torch.from_numpy(array), [len(part) for part in parts]))
        array.flush()
    with replacing(notes) as temporary:
        temporary.write_text(json.dumps({"kept": kept, "told": told}), encoding="utf-8")


def _split(whole: torch.Tensor, parts: Sequence[Sequence[Path]], kept: list[list[int]], told: list[str]) -> Pixels:
    pieces = torch.split(whole, [len(part) for part in parts])
    return Pixels([piece[: len(rows)] for piece, rows in zip(pieces, kept, strict=True)], kept, told)


def _key(parts: Sequence[Sequence[Path]], shape: tuple[int, int, int], rule: Preprocessing | None) -> str:
    files = [[(str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns) for path in part] for part in parts]
    told = [VERSION, shape, None if rule is None else dataclasses.asdict(rule), files]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
