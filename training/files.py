"""Files that appear whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; when the block ends well, what was written there becomes `path`.

    When it does not, for whatever reason, the temporary file is removed, `path` is as it was, and so are its folders.
    An OSError that names no file, as that of a full disk, leaves with the name of `path`.
    """
    missing = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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
