"""A missing test set is fetched from where its authors, or torchvision's, keep it; without torch.

Each file is checked by its own SHA-256 after it is unpacked, so any copy of the archives will do, over any line. It
appears under its name only when it is whole. Of CIFAR-10's archive no more is read than up to the test set.
"""

import gzip
import hashlib
import os
import tarfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from zlib import error as ZlibError  # noqa: N812 - a class in spite of its name

from rich.progress import Progress

from .dataset import TEST_SETS, File
from .errors import UnusableDataset

_TIMEOUT_S = 30.0
"""Of silence on the line."""
_CHUNK_BYTES = 2**16


def missing(name: str, data_dir: Path) -> list[File]:
    """Files of the test set that are not in the folder."""
    return [file for file in TEST_SETS[name].files if not (data_dir / file.path).exists()]


def fetch(name: str, file: File, data_dir: Path, *, mirror: str | None, bar: Progress) -> None:
    """Fetch one file into the folder, from ``mirror`` alone or the first of its own that has it.

    Raises UnusableDataset where none has it, or what comes is not the file.
    """
    target = data_dir / file.path
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    except OSError as error:
        raise UnusableDataset(f"{target} cannot be written: {error.strerror}: name another --data-dir") from error
    reasons: list[str] = []
    try:
        for folder in (mirror,) if mirror else TEST_SETS[name].mirrors:
            url = f"{folder.rstrip('/')}/{file.archive}"
            try:
                _copy(url, file, part, bar)
            except (OSError, HTTPException, EOFError, ValueError, ZlibError, tarfile.TarError) as error:
                reasons.append(f"{url}: {error or type(error).__name__}")
                continue
            part.replace(target)
            return
    finally:
        part.unlink(missing_ok=True)
    raise UnusableDataset(
        f"{target} is missing, and cannot be fetched ({'; '.join(reasons)}): "
        "name the folder that has it by --data-dir, or a server that has its archive by --data-mirror"
    )


def _copy(url: str, file: File, part: Path, bar: Progress) -> None:
    """Unpack the archive at a URL into a file. Raises OSError, and what unpacking raises."""
    digest, left = hashlib.sha256(), file.size
    with (
        urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response,  # noqa: S310 - http and https are all that is named
        part.open("wb") as target,
    ):
        length = response.headers.get("Content-Length", "")
        bar.reset(bar.task_ids[0], total=int(length) if length.isdecimal() else None)
        reader = _CountedReader(response, lambda count: bar.advance(bar.task_ids[0], count))
        with _unpacked(reader, file) as content:
            while chunk := content.read(min(_CHUNK_BYTES, left + 1)):
                left -= len(chunk)
                if left < 0:
                    break
                digest.update(chunk)
                target.write(chunk)
    if left or digest.hexdigest() != file.sha256:
        raise ValueError(f"what it holds is not the published {Path(file.path).name}, by its SHA-256")


class _CountedReader:
    """A response whose bytes are counted as they are read."""

    def __init__(self, response: IO[bytes], count: Callable[[int], None]) -> None:
        self._response = response
        self._count = count

    def read(self, size: int = -1) -> bytes:
        """Read as the response does."""
        chunk = self._response.read(size)
        self._count(len(chunk))
        return chunk


@contextmanager
def _unpacked(archive: Any, file: File) -> Iterator[Any]:
    """The file in the archive, as a stream."""
    if not file.archive.endswith(".tar.gz"):
        with gzip.open(archive) as content:
            yield content
        return
    with tarfile.open(fileobj=archive, mode="r|gz") as members:
        for member in members:
            if member.name == file.path and member.isfile():
                yield members.extractfile(member)
                return
    raise ValueError(f"there is no {file.path} in it")
