"""The command line: settings → one server, or a supervisor of several."""

import os
import sys
from collections.abc import Sequence
from importlib import metadata

import structlog

from .. import __version__, logs
from ..http2 import is_compiled
from ..options import SettingsError
from ..settings import Settings
from .worker_slot import WorkerSlot

EXIT_BAD_SETTINGS = 2
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
REVISION = "CONVSERVE_REVISION"
"""The environment variable by which a container's image tells of which commit it is."""

log = structlog.get_logger(__name__)


def run(arguments: Sequence[str] | None, prog: str) -> int:
    """Serves by these arguments, else by the process's own. Returns the exit code."""
    slot = WorkerSlot.from_environment()
    try:
        settings = Settings.read(arguments, prog)
    except SettingsError as error:
        for problem in error.problems:
            print(f"{prog}: {problem}", file=sys.stderr)  # noqa: T201 - no log yet
        return EXIT_BAD_SETTINGS
    writer = logs.configure(settings.log_format, settings.log_level, None if slot is None else slot.number)
    logs.log_uncaught()
    if slot is None:
        _tell_build(settings)
    if slot is None and settings.workers:
        from . import supervisor

        # A worker is this same command again: the interpreter finds in it what it found for us.
        return supervisor.run(settings, [sys.executable, *sys.orig_argv[1:]])
    from . import worker  # not above: a supervisor does without ONNX Runtime and all that serves

    writer.capture_stderr()
    return worker.run(settings if slot is None else slot.apply(settings), slot)


def _tell_build(settings: Settings) -> None:
    """Logs what runs here, and how it was told to."""
    log.info(
        "starting",
        version=__version__,
        commit=os.environ.get(REVISION, "unknown"),
        python=sys.version.partition(" ")[0],
        compiled=is_compiled(),
        runtimes={name: version for name in RUNTIMES if (version := _installed(name))},
        options={name: str(getattr(settings, name)) for name in sorted(settings.given)},
    )
    if settings.serves_bundled_models:
        log.info(
            "there is no folder models here: serving the models of the package",
            models_dir=str(settings.models_folder),
            remedy="--models-dir names another folder",
        )


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
