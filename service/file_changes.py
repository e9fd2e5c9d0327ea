"""Sees when files are written or replaced."""

from collections.abc import Iterable
from pathlib import Path


class FileChanges:
    """The state of some files, and whether it is another than when it was last looked at."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._known = self._state()

    def seen(self) -> bool:
        """Returns True once for each change."""
        state = self._state()
        changed, self._known = state != self._known, state
        return changed

    def _state(self) -> list[tuple[int, int, int]]:
        state = []
        for path in self._paths:
            try:
                status = path.stat()
            except OSError:  # in the middle of being replaced
                continue
            state.append((status.st_mtime_ns, status.st_ino, status.st_size))
        return state
