"""One process at a time makes a file: the second is refused at once, with the other's process id."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import BusyError


@contextmanager
def hold(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file while the block runs, and remove it after that, with the folders that were made for it.

    The lock is the system's own (flock), so a killed process holds none, whatever file it leaves. Raises BusyError,
    which says `what` is busy, while another process holds it, and OSError where no file can be made.
    """
    missing = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    file = _acquire(path, what)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: another process that has it open sees that it is gone
        os.close(file)
        with suppress(OSError):  # something lies in them, so they stay
            for folder in missing:
                folder.rmdir()


def refuse_if_held(path: Path, what: str) -> None:
    """Raise BusyError while another process holds the lock file; makes nothing."""
    with suppress(FileNotFoundError, NotADirectoryError):
        file = os.open(path, os.O_RDONLY)
        try:
            _lock(file, what)
        finally:
            os.close(file)


def _acquire(path: Path, what: str) -> int:
    """Open and lock the file of this name; one that its last holder removed meanwhile is made anew."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # the folder went with its last lock
            continue
        try:
            _lock(file, what)
            if _is_at(file, path):
                os.ftruncate(file, 0)
                os.write(file, str(os.getpid()).encode())
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _lock(file: int, what: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(file, 20, 0).decode(errors="replace").strip()
        by = f"process {holder}" if holder.isdecimal() else "another process"
        raise BusyError(f"{what} is being made by {by}; wait until it has ended, or stop it") from None


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
