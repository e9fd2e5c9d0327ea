"""A new version's folder: filled beside its place, and renamed into it once all of it has been checked."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .artifact import PullError, hashes_of

STAGING = ".pull-"
"""Folders with a dot are never served."""
TRIES = 100


@contextmanager
def staging(models: Path) -> Iterator[Path]:
    """Give an empty folder within the models folder, which is gone afterwards unless it has been put in place."""
    try:
        models.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=STAGING, dir=models))
    except OSError as error:
        raise PullError(f"nothing can be written into {models}: {error.strerror}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def versions_of(model: Path) -> list[int]:
    """The versions that a model's folder has, ascending."""
    if not model.is_dir():
        return []
    return sorted(int(entry.name) for entry in model.iterdir() if entry.name.isdecimal() and entry.is_dir())


def same_version(folder: Path, model: Path) -> Path | None:
    """The newest version of a model, where it has the very files of `folder`."""
    newest = versions_of(model)[-1:]
    if newest and hashes_of(model / str(newest[0])) == hashes_of(folder):
        return model / str(newest[0])
    return None


def put(folder: Path, model: Path, version: int | None) -> Path:
    """Rename `folder` to a version of a model, the next one unless it is said; raises PullError where it is taken."""
    model.mkdir(exist_ok=True)
    folder.chmod(0o755)
    for _ in range(TRIES):  # another pull may take a number meanwhile
        number = version or (versions_of(model) or [0])[-1] + 1
        place = model / str(number)
        try:
            folder.rename(place)  # fails where a folder with files is
        except OSError as error:
            if place.exists() and version is None:
                continue
            reason = "it is there already" if place.exists() else error.strerror
            raise PullError(f"version {number} cannot be put at {place}: {reason}") from error
        _sync(model)
        return place
    raise PullError(f"no number was free in {model}")


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
