"""What a model file is, told from its first bytes, and whether there is memory for it, before it is opened.

ONNX Runtime takes what memory a graph asks for, and the system then ends the process.
"""

import math
import stat
from pathlib import Path

from ..errors import ModelRejected
from ..memory import available_bytes
from .graph import Graph

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
        raise ModelRejected(f"it is {_kind(status.st_mode)}, not a regular file")
    if not size:
        raise ModelRejected("it is empty: copy it again")
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            what = next((what for start, what in KINDS if head.lstrip().lower().startswith(start.lower())), "")
            if what:
                raise ModelRejected(f"it is no ONNX file, but {what}")
    except OSError as error:
        raise ModelRejected(f"it cannot be read: {error.strerror}") from error
    _check_memory(2 * size, "it takes while it is opened")  # the file, and the session's weights


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
