"""The model files on disk: ``models/<name>/<version>/model.onnx``, or single models by name and path.

Reads names and no model. Whatever looks like a model and is in another place is told, with the path that is expected.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ModelRejected, StartError
from .model_config_file import FILE_NAME as CONFIG_NAME
from .model_config_file import ModelConfigFile, read_config
from .version_policy import parse_version

FILE_NAME = "model.onnx"
SUFFIX = ".onnx"
PAGES = {".md", ".png", ".svg", ".json", ".txt"}
"""What is written about models."""
DEPTH = 3
"""How far below a folder a misplaced model is looked for."""
MOST_ENTRIES = 10_000
"""Of a folder that are looked at for it."""

Place = tuple[str, int]
"""A model's name and version."""


def parse_place(text: str) -> Place:
    """From name/version."""
    name, _, version = text.rpartition("/")
    return name, int(version)


@dataclass(frozen=True)
class VersionFile:
    """A model file that may be served."""

    path: Path
    config: ModelConfigFile
    state: tuple[tuple[str, int, int, int], ...]
    """Names, sizes, times and numbers of what the model is made of: another after each change."""


@dataclass
class Listing:
    """What a scan has found."""

    files: dict[Place, VersionFile] = field(default_factory=dict)
    rejected: dict[Place, str] = field(default_factory=dict)
    """Versions that cannot be served whatever their files are, and why."""
    remarks: dict[Path, str] = field(default_factory=dict)
    """What was passed over, and why."""
    empty: set[Path] = field(default_factory=set)
    """Of these, folders without anything like a model."""
    hidden: list[Path] = field(default_factory=list)
    """Folders that are never served."""

    @property
    def names(self) -> list[str]:
        """The models, in their order."""
        return sorted({name for name, _ in (*self.files, *self.rejected)})


@dataclass(frozen=True)
class ModelFolder:
    """Where the models are."""

    folder: Path | None
    """Of <name>/<version>/model.onnx."""
    named: Mapping[str, Path] = field(default_factory=dict)
    """Files, version folders or model folders, by the names that their models get."""

    def scan(self) -> Listing:
        """All that is there now; raises StartError where the folder, or a named path, cannot be read."""
        listing = Listing()
        try:
            if self.folder is not None:
                _scan_folder(self.folder, listing, set(self.named))
        except OSError as error:
            raise StartError(
                f"the models folder {self.folder} cannot be read: {error.strerror}. "
                "Build models with `convserve export --all`, or name another folder with --models-dir"
            ) from error
        for name, path in self.named.items():
            try:
                _scan_named(name, path, listing)
            except OSError as error:
                raise StartError(f"the model '{name}' at {path} cannot be read: {error.strerror}") from error
        return listing

    @property
    def described(self) -> str:
        """The paths, for people."""
        return ", ".join(str(path) for path in (*([self.folder] if self.folder else []), *self.named.values()))


def model_path(folder: Path, name: str, version: str = "") -> Path:
    """The file of a model's version, or of its highest; raises StartError where there is none."""
    listing = ModelFolder(folder).scan()
    found = {number: file.path for (model, number), file in listing.files.items() if model == name}
    number = max(found, default=None) if not version else parse_version(version)
    if number not in found:
        which = f"version {version!r} of the model {name!r}" if version else f"model {name!r}"
        raise StartError(f"there is no {which} in {folder}; it has {', '.join(listing.names) or 'none'}")
    return found[number]


def _scan_folder(folder: Path, listing: Listing, taken: set[str]) -> None:
    for entry in sorted(folder.iterdir()):
        try:
            _scan_entry(entry, listing, taken)
        except OSError as error:  # it harms none of the others
            listing.remarks[entry] = f"it cannot be read: {error.strerror}"


def _scan_entry(entry: Path, listing: Listing, taken: set[str]) -> None:
    if entry.name.startswith("."):
        if entry.is_dir() and not entry.name.startswith(".."):  # those are Kubernetes' own, behind its links
            listing.hidden.append(entry)
    elif entry.is_dir():
        if entry.name in taken:
            listing.remarks[entry] = f"the model '{entry.name}' is the one that --model names"
        else:
            _scan_model(entry.name, entry, listing)
    elif entry.suffix.lower() == SUFFIX:
        expected = entry.parent / entry.stem / "1" / FILE_NAME
        listing.remarks[entry] = f"a file of its own is no model: expected {expected}"


def _scan_model(name: str, folder: Path, listing: Listing) -> None:
    """Adds the versions in a model's folder, and remarks about what is none."""
    config, problem = ModelConfigFile(), ""
    try:
        config = read_config(folder)
    except ModelRejected as error:
        problem = str(error)
        listing.remarks[folder / CONFIG_NAME] = f"{error}; no version of '{name}' is opened"
    if config.unread:
        fields = ", ".join(config.unread)
        listing.remarks[folder / CONFIG_NAME] = f"these fields of config.pbtxt are not read: {fields}"
    count = 0
    for entry in sorted(folder.iterdir()):
        version = parse_version(entry.name)
        if entry.name.startswith("."):
            if entry.is_dir() and not entry.name.startswith(".."):
                listing.hidden.append(entry)
        elif version is None or not entry.is_dir():
            _remark_on_entry(entry, listing, folder / "<version>" / config.file_name)
        elif not _lies(entry / config.file_name):
            count += 1
            _remark_on_version(entry, config.file_name, listing)
        elif problem:
            count += 1
            listing.rejected[name, version] = problem
        else:
            count += 1
            _add(name, version, entry / config.file_name, config, listing)
    if not count and not any(folder in path.parents for path in listing.remarks):
        listing.empty.add(folder)
        listing.remarks[folder] = f"it has no version: expected {folder / '1' / config.file_name}"


def _remark_on_entry(entry: Path, listing: Listing, expected: Path) -> None:
    """Of what lies in a model's folder and is no version of it."""
    if entry.is_dir():
        looks_like_version = entry.name.lower().removeprefix("v").lstrip("-+").isdigit()
        if looks_like_version or _find_model(entry) is not None:
            listing.remarks[entry] = (
                f"'{entry.name}' is no version, which is a whole number above zero without leading zeros: "
                f"expected {expected}"
            )
    elif entry.suffix.lower() == SUFFIX:
        listing.remarks[entry] = f"a model file lies in the folder of its version: expected {expected}"


def _remark_on_version(folder: Path, file_name: str, listing: Listing) -> None:
    """Of a version's folder without the file."""
    misplaced = _find_model(folder)
    if misplaced is None:
        listing.empty.add(folder)
    has = f"it has {misplaced.relative_to(folder)} instead" if misplaced is not None else "it has no such file"
    listing.remarks[folder] = f"{has}: expected {folder / file_name}"


def _scan_named(name: str, path: Path, listing: Listing) -> None:
    """Adds a model that was named with its path: a file, a version's folder, a model's folder, or one above that."""
    if not path.is_dir():
        _add(name, _version_of(path.parent), path, ModelConfigFile(), listing)
        return
    if _lies(path / FILE_NAME):
        _add(name, _version_of(path), path / FILE_NAME, ModelConfigFile(), listing)
        return
    if not any(parse_version(entry.name) for entry in path.iterdir()):
        inner = [entry for entry in sorted(path.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
        chosen = [entry for entry in inner if entry.name == name] or inner
        files = [entry for entry in sorted(path.iterdir()) if entry.suffix == SUFFIX]
        if len(files) == 1:
            _add(name, _version_of(path), files[0], ModelConfigFile(), listing)
            return
        if len(chosen) == 1:
            path = chosen[0]
    if _lies(path / FILE_NAME):
        _add(name, _version_of(path), path / FILE_NAME, ModelConfigFile(), listing)
    else:
        _scan_model(name, path, listing)


def _add(name: str, version: int, path: Path, config: ModelConfigFile, listing: Listing) -> None:
    listing.files[name, version] = VersionFile(path, config, file_state(path))


def file_state(path: Path) -> tuple[tuple[str, int, int, int], ...]:
    """Of the model's file, and of those beside it that may belong to it."""
    return tuple(state for each in model_parts(path) if (state := _stat(each)) is not None)


def model_parts(path: Path) -> list[Path]:
    """The model's file, and those beside it that may belong to it: weights may lie in any."""
    beside = [entry for entry in sorted(path.parent.iterdir()) if entry.suffix not in PAGES and entry != path]
    return [path, *(entry for entry in beside if not entry.name.startswith(".") and entry.is_file())]


def _stat(path: Path) -> tuple[str, int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return path.name, status.st_size, status.st_mtime_ns, status.st_ino


def _version_of(folder: Path) -> int:
    return parse_version(folder.name) or 1


def _lies(path: Path) -> bool:
    """True for a broken link too, which is an error to be told."""
    return os.path.lexists(path)


def _find_model(folder: Path) -> Path | None:
    """The first file below that looks like a model."""
    for count, path in enumerate(_walk(folder, DEPTH)):
        if path.suffix.lower() == SUFFIX:
            return path
        if count > MOST_ENTRIES:
            break
    return None


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and not entry.is_symlink():
            if depth > 1:
                yield from _walk(entry, depth - 1)
        else:
            yield entry
