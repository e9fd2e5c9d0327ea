"""Weights that an ONNX file keeps in other files beside it: which they are, and where they lie.

The format: https://github.com/onnx/onnx/blob/main/docs/ExternalData.md. Field numbers are those of onnx.proto.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import ModelRejected
from .protobuf_reader import fields

BITS = (
    dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 24), 8)  # UINT8, INT8, BOOL, FLOAT8…
    | dict.fromkeys((4, 5, 10, 16), 16)  # UINT16, INT16, FLOAT16, BFLOAT16
    | dict.fromkeys((1, 6, 12), 32)  # FLOAT, INT32, UINT32
    | dict.fromkeys((7, 11, 13, 14), 64)  # INT64, DOUBLE, UINT64, COMPLEX64
    | {15: 128}  # COMPLEX128
    | dict.fromkeys((21, 22, 23), 4)  # UINT4, INT4, FLOAT4E2M1
    | dict.fromkeys((25, 26), 2)  # UINT2, INT2
)
"""Size of an element, by TensorProto.DataType."""
EXTERNAL = 1
"""TensorProto.DataLocation."""


@dataclass(frozen=True)
class ExternalTensor:
    """An initializer whose values lie in another file."""

    name: str
    element: int
    """TensorProto.DataType."""
    shape: tuple[int, ...]
    location: str
    """The file, relative to the model's folder."""
    offset: int
    length: int


def find_external_tensors(model: memoryview) -> list[ExternalTensor]:
    """The initializers of a ModelProto's graph that lie in other files.

    Raises ValueError for bytes that are no ModelProto, ModelRejected for external data that ONNX Runtime takes from a
    path only, and so never from memory.
    """
    found: list[ExternalTensor] = []
    for part in fields(model):
        if part.number == 7:
            found += _in_graph(part.message)
        elif part.number == 25:  # a function: it has nodes, and no initializers
            for inner in fields(part.message):
                if inner.number == 7:
                    _refuse_in_node(inner.message)
    return found


def _in_graph(graph: memoryview) -> Iterator[ExternalTensor]:
    for part in fields(graph):
        if part.number == 1:
            _refuse_in_node(part.message)
        elif part.number == 5:
            tensor = _read_tensor(part.message)
            if tensor is not None:
                yield tensor
        elif part.number == 15:
            for values in fields(part.message):
                if values.number in (1, 2):
                    _refuse(_read_tensor(values.message), "a sparse tensor")


def _refuse_in_node(node: memoryview) -> None:
    for attribute in fields(node):
        if attribute.number != 5:
            continue
        for part in fields(attribute.message):
            if part.number in (6, 11):
                for tensor in _in_graph(part.message):
                    _refuse(tensor, "a weight of a branch or a loop")
            elif part.number in (5, 10):
                _refuse(_read_tensor(part.message), "an attribute of a node")


def _refuse(tensor: ExternalTensor | None, what: str) -> None:
    if tensor is not None:
        raise ModelRejected(
            f"its tensor {tensor.name!r} in the file {tensor.location!r} is {what}; only weights of the graph itself "
            "are read from other files. Save the model with this one inside"
        )


def _read_tensor(data: memoryview) -> ExternalTensor | None:
    """The tensor, or None where its values are inside."""
    name, element, location = "", 0, 0
    shape: list[int] = []
    entries: dict[str, str] = {}
    for part in fields(data):
        if part.number == 1:
            shape += part.numbers
        elif part.number == 2:
            (element,) = part.numbers
        elif part.number == 8:
            name = part.text
        elif part.number == 13:
            pair = {inner.number: inner.text for inner in fields(part.message)}
            entries[pair.get(1, "")] = pair.get(2, "")
        elif part.number == 14:
            (location,) = part.numbers
    if location != EXTERNAL:
        return None
    size = _size(name, element, shape)
    offset, length = int(entries.get("offset", "0")), int(entries.get("length", size))
    if offset < 0 or length != size:
        raise ModelRejected(
            f"its tensor {name!r} of shape {shape} takes {size} bytes, and is said to be {length} bytes from byte "
            f"{offset} of {entries.get('location')!r}: export it again"
        )
    return ExternalTensor(name, element, tuple(shape), entries.get("location", ""), offset, length)


def _size(name: str, element: int, shape: list[int]) -> int:
    if element not in BITS or any(length < 0 for length in shape):
        raise ModelRejected(
            f"its tensor {name!r} is of the ONNX element type {element} and shape {shape}, which cannot lie in another "
            "file: save it inside"
        )
    return (math.prod(shape) * BITS[element] + 7) // 8
