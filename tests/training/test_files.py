"""A file appears whole or not at all."""

import errno
from pathlib import Path

import pytest

from training.files import replacing


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
