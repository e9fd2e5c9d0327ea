"""Tensors between the wire and NumPy: the protocol's datatypes, checked bytes, views instead of copies."""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import InvalidRequest

if TYPE_CHECKING:  # the client uses this module, and must not register the messages in protobuf's default pool
    from .pb import open_inference_pb2 as pb

Array = NDArray[Any]


@dataclass(frozen=True)
class Datatype:
    """One datatype of the protocol."""

    name: str
    onnx: str
    """ONNX Runtime's name for it, without ``tensor(…)``."""
    numpy: np.dtype[Any]
    """BF16 has no NumPy type and travels as its 16 bits; BYTES are Python strings."""
    contents: str | None
    """The typed field of InferTensorContents; None: raw contents only."""


def _datatype(name: str, onnx: str, numpy: str, contents: str | None) -> Datatype:
    return Datatype(name, onnx, np.dtype(numpy), contents)


DATATYPES: dict[str, Datatype] = {
    datatype.name: datatype
    for datatype in (
        _datatype("BOOL", "bool", "?", "bool_contents"),
        _datatype("UINT8", "uint8", "u1", "uint_contents"),
        _datatype("UINT16", "uint16", "<u2", "uint_contents"),
        _datatype("UINT32", "uint32", "<u4", "uint_contents"),
        _datatype("UINT64", "uint64", "<u8", "uint64_contents"),
        _datatype("INT8", "int8", "i1", "int_contents"),
        _datatype("INT16", "int16", "<i2", "int_contents"),
        _datatype("INT32", "int32", "<i4", "int_contents"),
        _datatype("INT64", "int64", "<i8", "int64_contents"),
        _datatype("FP16", "float16", "<f2", None),
        _datatype("FP32", "float", "<f4", "fp32_contents"),
        _datatype("FP64", "double", "<f8", "fp64_contents"),
        _datatype("BF16", "bfloat16", "<u2", None),
        _datatype("BYTES", "string", "O", "bytes_contents"),
    )
}
BY_ONNX = {f"tensor({datatype.onnx})": datatype for datatype in DATATYPES.values()}


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    """-1 for an axis of any length; the batch axis, where there is one, comes first.

    Empty for a scalar or an unknown rank, which ONNX Runtime does not tell apart."""
    axis_names: tuple[str, ...] = ()
    """The name of each axis, "" where it has none; axes of one name have one length."""

    def accepts(self, shape: Sequence[int]) -> bool:
        """True if an array of this shape fits; without a declared rank, only the model can tell."""
        if not self.shape:
            return min(shape, default=0) >= 0
        if len(shape) != len(self.shape):
            return False
        for got, want in zip(shape, self.shape, strict=True):  # noqa: SIM110 - all(…) takes 4 µs of each request more
            if got < 0 or (got != want and want != -1):
                return False
        return True


def decode(tensor: "pb.ModelInferRequest.InferInputTensor", raw: bytes | None, spec: TensorSpec, model: str) -> Array:
    """One checked input as an array of ``tensor.shape``; raw numeric bytes are viewed, not copied.

    Raises InvalidRequest with the protocol's wording; the shape must have been checked against the spec.
    """
    shape = tuple(tensor.shape)
    count = math.prod(shape)
    if raw is None:
        return _from_contents(tensor, spec, model, count).reshape(shape)
    if spec.datatype.name == "BYTES":
        return _strings(_split_strings(raw, count, spec.name, model), spec.name, model).reshape(shape)
    expected = count * spec.datatype.numpy.itemsize
    if len(raw) != expected:
        raise InvalidRequest(
            f"input byte size mismatch for input '{spec.name}' for model '{model}'. Expected {expected}, got {len(raw)}"
        )
    return np.frombuffer(raw, spec.datatype.numpy).reshape(shape)


def encode(array: Array, datatype: Datatype) -> bytes:
    """The elements in row-major order, little-endian; BYTES elements each behind their length."""
    if datatype.name == "BYTES":
        parts = [text if isinstance(text, bytes) else str(text).encode() for text in array.reshape(-1)]
        return b"".join(struct.pack("<I", len(part)) + part for part in parts)
    return array.astype(datatype.numpy, copy=False).tobytes()


def _from_contents(tensor: "pb.ModelInferRequest.InferInputTensor", spec: TensorSpec, model: str, count: int) -> Array:
    field = spec.datatype.contents
    if field is None:
        raise InvalidRequest(
            f"input '{spec.name}' for model '{model}' is {spec.datatype.name}, which must use raw_input_contents"
        )
    foreign = [filled.name for filled, _ in tensor.contents.ListFields() if filled.name != field]
    if foreign:
        raise InvalidRequest(
            f"input '{spec.name}' for model '{model}' is {spec.datatype.name}: "
            f"its elements belong in {field}, but {foreign[0]} is filled"
        )
    elements = getattr(tensor.contents, field)
    if len(elements) != count:
        raise InvalidRequest(
            f"input element count mismatch for input '{spec.name}' for model '{model}'. "
            f"Expected {count}, got {len(elements)}"
        )
    if field == "bytes_contents":
        return _strings(list(elements), spec.name, model)
    wide = np.array(elements, dtype={"int_contents": "<i4", "uint_contents": "<u4"}.get(field, spec.datatype.numpy))
    narrow = wide.astype(spec.datatype.numpy, copy=False)
    if narrow.dtype != wide.dtype and not np.array_equal(narrow, wide):
        raise InvalidRequest(f"input '{spec.name}' for model '{model}' has elements outside of {spec.datatype.name}")
    return narrow


def _split_strings(raw: bytes, count: int, name: str, model: str) -> list[bytes]:
    """The elements of raw BYTES contents: each a little-endian uint32 length and that many bytes."""
    parts: list[bytes] = []
    at = 0
    while at < len(raw) and len(parts) < count:
        end = at + 4
        if end <= len(raw):
            end += struct.unpack_from("<I", raw, at)[0]
        if end > len(raw) or end < at + 4:
            break
        parts.append(raw[at + 4 : end])
        at = end
    if len(parts) != count or at != len(raw):
        raise InvalidRequest(
            f"input '{name}' for model '{model}' should hold {count} length-prefixed BYTES elements "
            f"in exactly {len(raw)} bytes, but element {len(parts)} at byte {at} does not fit"
        )
    return parts


def _strings(parts: list[bytes], name: str, model: str) -> Array:
    """ONNX strings are UTF-8 text, and ONNX Runtime takes them as Python strings."""
    array = np.empty(len(parts), dtype=object)
    try:
        array[:] = [part.decode() for part in parts]
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"input '{name}' for model '{model}' has an element that is not UTF-8 text: {error.reason}"
        ) from None
    return array
