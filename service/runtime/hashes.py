"""SHA-256 over everything a file claims and computes, so that no accidental change of it goes unseen.

Not a signature: who changes a file on purpose can write new hashes too. docs/file-format.md has the definition.
"""

import hashlib
import json
from collections.abc import Mapping

from ..errors import ModelRejected
from .model_file import ModelFile
from .model_metadata import HASHES, PREFIX


def verify_hashes(file: ModelFile) -> None:
    """Compares each part of the file with its hash, where the file has hashes; raises ModelRejected."""
    text = file.metadata.get(HASHES)
    if text is None:
        return
    try:
        claimed = json.loads(text)
        model, weights, entries = str(claimed["model"]), dict(claimed["files"]), dict(claimed["entries"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelRejected(f"its metadata entry {HASHES!r} cannot be read: {error!r}") from error
    if _model_hash(file) != model:
        raise _changed("its graph, or a weight in it, is")
    _compare("weights file", {name: _sha256(content) for name, content in file.weights.items()}, weights)
    _compare("metadata entry", {key: _sha256(value.encode()) for key, value in _claims(file.metadata).items()}, entries)


def _claims(metadata: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if key.startswith(PREFIX) and key != HASHES}


def _compare(what: str, found: Mapping[str, str], claimed: Mapping[str, object]) -> None:
    for name in sorted(found.keys() | claimed.keys()):
        if name not in found:
            raise _changed(f"its {what} {name!r} is missing; with it, the file would be")
        if name not in claimed:
            raise _changed(f"its {what} {name!r} was added: it is")
        if found[name] != claimed[name]:
            raise _changed(f"its {what} {name!r} is")


def _changed(what: str) -> ModelRejected:
    return ModelRejected(
        f"{what} not as it was exported: the SHA-256 in {HASHES!r} is another. Export it again, or copy the original"
    )


def _model_hash(file: ModelFile) -> str:
    digest = hashlib.sha256()
    for start, end in file.graph_parts:
        digest.update(memoryview(file.model)[start:end])
    return digest.hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
