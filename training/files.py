"""Files that appear whole or not at all, in places that can take them."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import PlaceError

# Bytes that a report, a table of epochs and all metadata stay below.
SMALL_FILES = 8_000_000


def check_place(folder: Path, needed: int, option: str) -> None:
    """Raise PlaceError unless `folder`, which need not exist yet, can take so many bytes; `option` names it."""
    nearest = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    if not nearest.is_dir():
        raise PlaceError(f"{nearest} is no folder, so nothing can be put into {folder}; name another by {option}")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PlaceError(f"{nearest} cannot be written to; allow it, or name another folder by {option}")
    free = shutil.disk_usage(nearest).free
    if free < needed:
        raise PlaceError(
            f"{nearest} has {free / 1e6:,.0f} MB free, and {needed / 1e6:,.0f} MB are needed; free some space, or name "
            f"another folder by {option}"
        )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; when the block ends well, what was written there becomes `path`.

    When it does not, for whatever reason, the temporary file is removed, `path` is as it was, and so are its folders.
    An OSError that names no file, as that of a full disk, leaves with the name of `path`.
    """
    missing = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # its own: another process may write `path` too
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left(path)
        yield temporary
        temporary.replace(path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        temporary.unlink(missing_ok=True)
        for folder in missing:  # innermost first; only folders that this call made, so they are empty
            if folder.exists():
                folder.rmdir()
        raise


def _remove_left(path: Path) -> None:
    """Remove the temporary files beside `path` that killed processes left."""
    pattern = re.compile(re.escape(path.name) + r"(\.(?P<process>\d+))?\.tmp")
    for file in path.parent.iterdir():
        found = pattern.fullmatch(file.name)
        if found and not (found["process"] and _runs(int(found["process"]))):
            file.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        return True
    return True
