"""A file appears whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from training.errors import PlaceError
from training.files import check_place, replacing

NO_PROCESS = 2**31 - 1
"""Linux numbers processes up to 2**22."""


def test_file_appears_when_block_ends(tmp_path: Path) -> None:
    """A file takes its place when the block ends well."""
    path = tmp_path / "new" / "folder" / "file"
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def write_half(path: Path, error: BaseException) -> None:
    """Begin to write a file, and be stopped by an error."""
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("no"), OSError(errno.ENOSPC, "No space left")])
def test_whatever_interrupts_leaves_nothing_behind(tmp_path: Path, error: BaseException) -> None:
    """Whatever interrupts leaves nothing behind."""
    with pytest.raises(type(error)):
        write_half(tmp_path / "new" / "folder" / "file", error)
    assert list(tmp_path.iterdir()) == []


def test_older_file_survives_failed_successor(tmp_path: Path) -> None:
    """An older file is kept when its successor fails."""
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match="No space left") as caught:
        write_half(path, OSError(errno.ENOSPC, "No space left on device"))
    assert caught.value.filename == str(path)
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ["old"]


def test_processes_write_under_names_of_own(tmp_path: Path) -> None:
    """A temporary file of a living process stays, and one that a killed process left goes."""
    path = tmp_path / "file"
    other, left, old = (tmp_path / f"file{name}.tmp" for name in (f".{os.getppid()}", f".{NO_PROCESS}", ""))
    for file in (other, left, old):
        file.write_text("half")
    with replacing(path) as temporary:
        assert temporary not in (other, left, old)
        temporary.write_text("whole")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"file": "whole", other.name: "half"}


def test_place_without_room_is_refused(tmp_path: Path) -> None:
    """A folder without room, or below a file, is refused before anything is made; another is not."""
    check_place(tmp_path / "new" / "folder", 1_000, "--models-dir")
    with pytest.raises(PlaceError, match=r"MB are needed; free some space, or name another folder by --models-dir"):
        check_place(tmp_path / "new" / "folder", 2**62, "--models-dir")
    (tmp_path / "file").write_text("a file")
    with pytest.raises(PlaceError, match=f"{tmp_path}/file is no folder, so nothing can be put into {tmp_path}/file/x"):
        check_place(tmp_path / "file" / "x", 1_000, "--models-dir")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
