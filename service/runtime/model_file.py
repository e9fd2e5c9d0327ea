"""A model's files, read once into memory: what is proved is what is loaded, whatever happens on disk afterwards.

ONNX Runtime would map external data (`model.onnx.data`) where it lies: overwriting that file changes
the answers, and cutting it ends the process by SIGBUS. So each file is read once, hashed, and handed over as bytes.

Each session holds its own copy of the weights, as it does of weights inside the file. While a model is loaded its files
are in memory once more; that copy goes when its last session is open.
"""

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from ..errors import ModelRejected
from .external_data import ExternalTensor, find_external_tensors
from .protobuf_reader import fields

MOST_PROTOBUF_BYTES = 2**31 - 1
"""Protobuf's own limit (https://protobuf.dev/programming-guides/proto-limits/)."""
MOST_TENSOR_BYTES = MOST_PROTOBUF_BYTES
"""ONNX Runtime 1.31 takes larger tensors from a file of its own or as a value, but not from a file in memory."""
METADATA, GRAPH = 14, 7
"""Fields of ModelProto (onnx.proto)."""


@dataclass(frozen=True)
class ModelFile:
    """The bytes of an ONNX file, and of the files that its weights lie in."""

    model: bytes
    metadata: Mapping[str, str]
    graph_parts: Sequence[tuple[int, int]]
    """Where in ``model`` all of it lies but the metadata: from, to."""
    weights: Mapping[str, bytes]
    """Whole files by their location, which is relative to the model's folder."""
    large_tensors: Sequence[ExternalTensor]
    """Initializers that ONNX Runtime does not take from such a file, because they are too large for a protobuf."""

    @classmethod
    def read(cls, path: Path) -> "ModelFile":
        """Reads all of it; raises ModelRejected for what cannot be served from memory."""
        model = _read(path, "it", MOST_PROTOBUF_BYTES)
        metadata: dict[str, str] = {}
        parts: list[tuple[int, int]] = []
        has_graph = False
        try:
            for part in fields(memoryview(model)):
                has_graph |= part.number == GRAPH
                if part.number == METADATA:
                    _add_entry(metadata, part.message)
                elif parts and parts[-1][1] == part.start:
                    parts[-1] = (parts[-1][0], part.end)
                else:
                    parts.append((part.start, part.end))
            # The key that every external tensor has: the walk through all nodes is for files that have it.
            tensors = find_external_tensors(memoryview(model)) if b"location" in model else []
        except ValueError as error:
            raise ModelRejected(f"it is no ONNX file, or not all of one: {error}") from error
        if not has_graph:
            raise ModelRejected(f"it is no ONNX file, or not all of one: {len(model)} bytes without a graph")
        weights = {
            location: _read_weights(path, location, [tensor for tensor in tensors if tensor.location == location])
            for location in dict.fromkeys(tensor.location for tensor in tensors)
        }
        large = [tensor for tensor in tensors if tensor.length > MOST_TENSOR_BYTES]
        return cls(model, metadata, parts, weights, large)

    def open(self, options: ort.SessionOptions) -> ort.InferenceSession:
        """A session of these bytes; raises what ONNX Runtime raises."""
        if self.weights:
            sizes = [len(content) for content in self.weights.values()]
            options.add_external_initializers_from_files_in_memory(
                list(self.weights), list(self.weights.values()), sizes
            )
        # ONNX Runtime copies them, so they need not outlive the call.
        values = {tensor.name: self._value(tensor) for tensor in self.large_tensors}
        if values:
            options.add_external_initializers(list(values), list(values.values()))
        session = ort.InferenceSession(self.model, options)
        # It is for a second try on other providers, which never happens here, and would be held as long as the session.
        session._model_bytes = b""  # noqa: SLF001 - it has no public name
        return session

    def _value(self, tensor: ExternalTensor) -> ort.OrtValue:
        count = np.prod(tensor.shape, dtype=np.int64)
        unsigned = np.dtype(f"u{tensor.length // count}")  # the bytes are taken for the ONNX type of the same size
        array = np.frombuffer(self.weights[tensor.location], unsigned, int(count), tensor.offset)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.reshape(tensor.shape), tensor.element)


def _add_entry(metadata: dict[str, str], entry: memoryview) -> None:
    pair = {part.number: part.text for part in fields(entry)}
    key = pair.get(1, "")
    if key in metadata:
        raise ModelRejected(f"its metadata has the key {key!r} twice")
    metadata[key] = pair.get(2, "")


def _read_weights(model: Path, location: str, tensors: Sequence[ExternalTensor]) -> bytes:
    path = model.parent / location
    if not location or Path(location).is_absolute() or ".." in Path(location).parts:
        raise ModelRejected(f"its weights lie in {location!r}: the file must be named relative to the model's folder")
    homes = {model.parent.resolve(), model.resolve().parent}
    if not any(path.resolve().is_relative_to(home) for home in homes):
        raise ModelRejected(
            f"its weights lie in {location!r}, which leads out of the model's folder: put the file itself there"
        )
    content = _read(path, f"its file of weights {location!r}")
    needed = max(tensor.offset + tensor.length for tensor in tensors)
    if len(content) < needed:
        raise ModelRejected(
            f"its file of weights {location!r} has {len(content)} bytes, {needed} are needed: it is not all there, "
            "copy it again"
        )
    return content


def _read(path: Path, what: str, most: int | None = None) -> bytes:
    """The content of a regular file that nothing writes to meanwhile."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # before it is opened: a pipe would wait for a writer
            raise ModelRejected(f"{what} is not a regular file")
        with path.open("rb", buffering=0) as file:
            before = os.fstat(file.fileno())
            if most is not None and before.st_size > most:
                raise ModelRejected(
                    f"{what} has {before.st_size} bytes, an ONNX file has at most {most}: "
                    "save its weights as external data"
                )
            content = file.readall()
            after = os.fstat(file.fileno())
    except OSError as error:
        raise ModelRejected(f"{what} cannot be read: {error.strerror}") from error
    except MemoryError as error:
        raise ModelRejected(f"{what} has {before.st_size} bytes, more than there is memory for") from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or len(content) != after.st_size:
        raise ModelRejected(f"{what} was written to while it was read: put it in place with one rename")
    return content
