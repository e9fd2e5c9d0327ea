"""A pull, in the order of its steps: open, check, download, verify, put in place."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from ..errors import ModelRejected
from ..runtime.hashes import verify_hashes
from ..runtime.model_file import ModelFile
from . import object_store, oci, place
from .artifact import MODEL_NAME, NAME, Artifact, PullError, download, hashes_of
from .signature import Signer


def pull(args: argparse.Namespace) -> tuple[Path, bool]:
    """Bring a model: the folder of its version, and whether that is new; raises PullError."""
    artifact = _open(args)
    name = args.name or artifact.name
    if not NAME.fullmatch(name):
        raise PullError(f"the source's name {name!r} is no name of a model; say one by --name")
    try:
        with place.staging(args.models) as folder:
            artifact.check(int(args.max_gib * 2**30), folder)
            _download(artifact, folder, name)
            _verify(args, folder)
            known = place.same_version(folder, args.models / name)
            return (known, False) if known else (place.put(folder, args.models / name, args.model_version), True)
    except OSError as error:
        raise PullError(f"the model cannot be written to {args.models}: {error.strerror or error}") from error


def _open(args: argparse.Namespace) -> Artifact:
    if args.source.startswith(oci.SCHEME):
        return oci.open_artifact(args.source, plain_http=args.plain_http)
    if args.source.startswith(object_store.SCHEMES):
        return object_store.open_artifact(args.source, plain_http=args.plain_http)
    raise PullError(f"{args.source} is no source; expected oci://…, s3://…, gs://…, az://… or file:///…")


def _download(artifact: Artifact, folder: Path, name: str) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=artifact.size)
        for file in artifact.files:
            download(file, folder / file.name, lambda count: progress.advance(task, count))


def _verify(args: argparse.Namespace, folder: Path) -> None:
    """Compare with the digest and the signer that were asked for, and the file with its own hashes."""
    found = hashes_of(folder)[MODEL_NAME]
    if args.sha256 and found != args.sha256:
        raise PullError(f"the SHA-256 of {MODEL_NAME} is {found}, not {args.sha256}")
    if args.public_key or args.certificate or args.identity:
        Signer(args.public_key, tuple(args.certificate or ()), args.identity or "", args.issuer or "").verify(folder)
    try:
        verify_hashes(ModelFile.read(folder / MODEL_NAME))
    except ModelRejected as error:
        raise PullError(f"the model cannot be served, and is not taken: {error}") from error
