"""What a source holds: the files of one version of a model, and how their bytes are read."""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import StartError

MODEL_NAME = "model.onnx"
MOST_FILES = 1_000
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""A model's name."""


class PullError(StartError):
    """A model cannot be brought; the models folder is as it was."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of an artifact."""

    name: str
    size: int
    sha256: str
    """As the source claims; empty where it claims nothing."""
    read: Callable[[], Iterable[bytes]]
    """Gives the content in pieces."""


@dataclass(frozen=True)
class Artifact:
    """The files of one version of a model, and the names that its source has for it."""

    name: str
    """Of the model, as far as the source's address tells."""
    files: Sequence[RemoteFile]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(file.size for file in self.files)

    def check(self, most_bytes: int, folder: Path) -> None:
        """Raises PullError for what cannot be a version's folder, or has no room in `folder`."""
        names = [file.name for file in self.files]
        for name in names:
            parts = name.split("/")
            if name.startswith("/") or "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
                raise PullError(f"the artifact has a file named {name!r}, which is no path within a version's folder")
        if len(set(names)) != len(names) or len(names) > MOST_FILES:
            raise PullError(f"the artifact has {len(names)} files; expected up to {MOST_FILES} with different names")
        if MODEL_NAME not in names:
            shown = ", ".join(sorted(names)[:8]) or "no files"
            raise PullError(f"the artifact has no {MODEL_NAME} at its top; it has {shown}")
        if self.size > most_bytes:
            raise PullError(f"the artifact has {self.size:,} bytes; the limit is {most_bytes:,} (--max-gib)")
        free = shutil.disk_usage(folder).free
        if self.size > free:
            raise PullError(f"the artifact has {self.size:,} bytes, and {folder} has room for {free:,}")


def download(file: RemoteFile, path: Path, advance: Callable[[int], None]) -> None:
    """Write a file, and compare its length and hash with what the source claims; raises PullError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as out:
        for piece in file.read():
            size += len(piece)
            if size > file.size:
                break
            digest.update(piece)
            out.write(piece)
            advance(len(piece))
        out.flush()
        os.fsync(out.fileno())
    if size != file.size:
        more = "more" if size > file.size else f"{size:,}"
        raise PullError(f"{file.name} has {more} bytes, and its source says {file.size:,}: it is not all of the file")
    if file.sha256 and digest.hexdigest() != file.sha256:
        raise PullError(
            f"{file.name} is not what its source says: its SHA-256 is {digest.hexdigest()}, expected {file.sha256}"
        )


def hashes_of(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder, by its path there."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in _files_below(folder)
    }


def _files_below(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
