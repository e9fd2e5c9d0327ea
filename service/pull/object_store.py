"""Artifacts in a bucket or a folder: the objects below a prefix, or one ONNX file.

Addresses are obstore's: s3://, gs://, az:// and file://. Credentials are those of the environment, such as
``AWS_ACCESS_KEY_ID`` and ``AWS_ENDPOINT_URL``, or of the machine.
"""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url

from .artifact import MODEL_NAME, Artifact, PullError, RemoteFile

MOST_CHARACTERS = 300
"""Of what a store says about an error."""
SCHEMES = ("s3://", "gs://", "az://", "file://")


def open_artifact(source: str, *, plain_http: bool) -> Artifact:
    """List the objects of a version; raises PullError.

    A source that ends with .onnx is that file alone. Plain HTTP is used with ``plain_http``, or where
    ``AWS_ENDPOINT_URL`` says so.
    """
    source = source.rstrip("/")
    folder, _, last = source.rpartition("/")
    alone = last.endswith(".onnx")
    try:
        store = _store(folder if alone else source, plain_http=plain_http)
        objects = [obstore.head(store, last)] if alone else [each for page in obstore.list(store) for each in page]
    except (BaseError, OSError, ValueError) as error:
        raise PullError(f"{source} cannot be read: {_told(error)}") from error
    if not objects:
        raise PullError(f"{source} has no files")
    if alone:
        read = partial(_read, store, last)
        return Artifact(last.removesuffix(".onnx"), [RemoteFile(MODEL_NAME, objects[0]["size"], "", read)])
    _check_is_version(source, [each["path"] for each in objects])
    name = folder.rsplit("/", 1)[-1] if last.isdecimal() else last
    files = [RemoteFile(each["path"], each["size"], "", partial(_read, store, each["path"])) for each in objects]
    return Artifact(unquote(name), files)


def _store(url: str, *, plain_http: bool) -> Any:
    if url.startswith("file://"):
        parts = urlsplit(url)
        path = Path(unquote(parts.path))
        if parts.netloc not in ("", "localhost") or not path.is_absolute():
            raise ValueError("a folder's address is file:// and an absolute path: file:///models/birds/3")
        if not path.is_dir():
            raise ValueError("there is no such folder")
        return from_url(path.as_uri())
    plain = plain_http or os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    return from_url(
        url,
        client_options={"connect_timeout": "10s", "timeout": "600s", "allow_http": plain},
        retry_config={"max_retries": 3},
    )


def _check_is_version(source: str, paths: list[str]) -> None:
    if MODEL_NAME in paths:
        return
    versions = sorted({int(path.split("/")[0]) for path in paths if path.split("/")[0].isdecimal()})
    if versions:
        shown = ", ".join(map(str, versions))
        raise PullError(f"{source} holds versions ({shown}); name one of them: {source}/{versions[-1]}")


def _read(store: Any, path: str) -> Iterator[bytes]:
    try:
        yield from (bytes(piece) for piece in obstore.get(store, path).stream(min_chunk_size=1 << 20))
    except (BaseError, OSError) as error:
        raise PullError(f"{path} cannot be read: {_told(error)}") from error


def _told(error: Exception) -> str:
    return " ".join(str(error).partition("\n\nDebug")[0].split())[:MOST_CHARACTERS]
