"""What a model file is, told from its first bytes and its structure, before ONNX Runtime sees it.

ONNX Runtime says "Protobuf parsing failed" of all that is no model, opens pipes and waits, and takes what memory a file
asks for.
"""

import math
import os
import stat
from pathlib import Path

from service.errors import ModelRejected
from service.memory import available_bytes
from service.runtime.graph import Graph

MOST_BYTES = 2**31 - 1
"""Of a protobuf message (https://protobuf.dev/programming-guides/proto-limits/)."""
HEAD_BYTES = 512
KINDS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer: run `git lfs pull`, or copy the file itself"),
    (b"/annex/objects/", "a git-annex pointer: run `git annex get`, or copy the file itself"),
    (b"<!doctype html", "an HTML page: the download gave a page in the file's place, of an error or a login perhaps"),
    (b"<html", "an HTML page: the download gave a page in the file's place, of an error or a login perhaps"),
    (b"<?xml", "an XML file (an error of an object store, or OpenVINO's IR); export the model as ONNX"),
    (b"{", "a JSON file, of an error of the download perhaps"),
    (b"PK\x03\x04", "a ZIP archive (PyTorch's .pt, or a packed model): export the model as ONNX, or unpack it"),
    (b"\x1f\x8b", "a gzip archive: unpack it"),
    (b"\x89HDF", "an HDF5 file (Keras): export the model as ONNX"),
    (b"\x80\x02", "a pickle (PyTorch, scikit-learn): export the model as ONNX"),
    (b"\x80\x04", "a pickle (PyTorch, scikit-learn): export the model as ONNX"),
    (b"ORTM", "a model in ORT format: serve the ONNX file it was made of"),
)
GRAPH = 7
"""ModelProto.graph."""
FIELDS = {*range(1, 9), 14, 20, 25, 26}
"""Of a ModelProto."""
WIRE_TYPES = {0, 1, 2, 5}
FOUR_BYTES = 4
"""Of a float32, the element of most tensors."""


def check_file(path: Path) -> None:
    """Raises ModelRejected with what the file is, where it is no ONNX file or too large."""
    try:
        status = path.stat()
    except OSError as error:
        raise ModelRejected(f"it cannot be read: {error.strerror}") from error
    size = status.st_size
    if not stat.S_ISREG(status.st_mode):
        raise ModelRejected(f"it is {_kind(status.st_mode)}, not a file")
    if not size:
        raise ModelRejected("it is empty: copy it again")
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            what = next((what for start, what in KINDS if head.lstrip().lower().startswith(start.lower())), "")
            if what:
                raise ModelRejected(f"it is no ONNX file, but {what}")
            if size > MOST_BYTES:
                raise ModelRejected(
                    f"it has {_mib(size)}, and an ONNX file has at most 2 GiB: export it with weights in other files"
                )
            _check_fields(file.fileno(), size)
    except OSError as error:
        raise ModelRejected(f"it cannot be read: {error.strerror}") from error
    _check_memory(size, "it has")


def check_graph(graph: Graph) -> None:
    """Raises ModelRejected where one tensor of the graph alone would take more memory than there is."""
    for name, weight in graph.weights.items():
        _check_memory(math.prod(weight.shape), f"its weight '{name}' of shape {list(weight.shape)} has at least")
    for name, shape in graph.shapes.items():
        least = math.prod(max(1, axis) for axis in shape)
        _check_memory(least, f"its tensor '{name}' of shape {list(shape)} has at least")
    for node in graph.nodes:
        lengths = graph.weights[node.inputs[0]].values if node.inputs and node.inputs[0] in graph.weights else ()
        if node.op == "ConstantOfShape" and lengths:
            needed = math.prod(lengths) * FOUR_BYTES
            _check_memory(needed, f"its operator ConstantOfShape makes a tensor of shape {list(lengths)}, of")


def _check_memory(needed: int, what: str) -> None:
    available = available_bytes() if needed > 2**20 else None
    if available is not None and needed > available:
        raise ModelRejected(f"{what} {_mib(needed)}, and {_mib(available)} of memory are available here")


def _check_fields(file: int, size: int) -> None:
    """Walks over the outermost fields, reading nothing but their lengths."""
    at, has_graph = 0, False
    while at < size:
        data = os.pread(file, 20, at)
        key, used = _varint(data)
        kind, number = key & 7, key >> 3
        length, more = 0, 0
        if kind == 0:
            _, more = _varint(data[used:])
        elif kind == 2:
            length, more = _varint(data[used:])
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        is_whole = used and (more or kind not in (0, 2) or at + len(data) == size)
        if not is_whole or number not in FIELDS or kind not in WIRE_TYPES:
            begin = data[:8].hex(" ")
            raise ModelRejected(f"it is no ONNX file: its bytes from {at} on ({begin} …) are no field of a model")
        has_graph |= number == GRAPH
        at += used + more + length
    if at > size:
        raise ModelRejected(
            f"it is cut: it has {size} bytes, and its fields go on to byte {at} at least. Copy it again"
        )
    if not has_graph:
        raise ModelRejected("it is no ONNX model: it has no graph. If it was cut, copy it again")


def _varint(data: bytes) -> tuple[int, int]:
    """A number and how many bytes it takes; 0, 0 where there is none."""
    value = 0
    for place, byte in enumerate(data[:10]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, place + 1
    return 0, 0


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFIFO: "a pipe (FIFO)",
        stat.S_IFSOCK: "a socket",
        stat.S_IFDIR: "a folder",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
