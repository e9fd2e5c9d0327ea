"""Arrays become ModelInfer's request, its response arrays; raw contents both ways."""

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..tensors import DATATYPES, encode
from . import open_inference as oip
from .errors import ServerFailure, UnusableTensor
from .results import TensorOutputs

Array = npt.NDArray[Any]
_BY_DTYPE = {
    datatype.numpy: datatype for datatype in DATATYPES.values() if datatype.name not in ("BF16", "BYTES")
}  # BF16's 16 bits would hide UINT16


def request(
    model: str, version: str, inputs: Mapping[str, npt.ArrayLike], outputs: Sequence[str], max_bytes: int
) -> Any:
    """One ModelInferRequest; no ``outputs`` are all of them. Raises UnusableTensor."""
    message = oip.ModelInferRequest(model_name=model, model_version=version)
    problems: list[str] = []
    for name, value in inputs.items():
        try:
            array = _array(value)
            datatype, raw = _encoded(array)
        except UnusableTensor as error:
            problems.append(f"input '{name}' {error}")
            continue
        message.inputs.add(name=name, datatype=datatype, shape=array.shape)
        message.raw_input_contents.append(raw)
    if problems:
        raise UnusableTensor("\n".join(problems))
    for name in outputs:
        message.outputs.add(name=name)
    if message.ByteSize() > max_bytes:
        raise UnusableTensor(
            f"the inputs have {message.ByteSize() / 2**20:.1f} MiB, more than the {max_bytes / 2**20:.1f} MiB "
            "that a message holds: send fewer rows at once"
        )
    return message


def _array(value: npt.ArrayLike) -> Array:
    try:
        return np.asarray(value)
    except Exception as error:  # whatever __array__ raises: a tensor on a GPU, one that needs a gradient
        raise UnusableTensor(f"cannot be read as an array: {error}") from error


def _encoded(array: Array) -> tuple[str, bytes]:
    """The protocol's name of an array's datatype, and its bytes."""
    if array.dtype.name == "bfloat16":  # of ml_dtypes; NumPy itself has none
        return "BF16", array.view(np.uint16).astype("<u2").tobytes()
    if array.dtype.kind in "US" or (
        array.dtype.hasobject and all(isinstance(each, str | bytes) for each in array.reshape(-1))
    ):
        return "BYTES", encode(array.astype(object), DATATYPES["BYTES"])
    datatype = _BY_DTYPE.get(array.dtype.newbyteorder("<"))
    if datatype is None:
        raise UnusableTensor(
            f"is an array of {array.dtype}: expected bool, integers or floating-point numbers of 8 to 64 bits, "
            "bfloat16 of ml_dtypes, or text"
        )
    return datatype.name, encode(array, datatype)


def outputs(response: Any) -> TensorOutputs:
    """The arrays of a ModelInferResponse by name; BF16 as float32, BYTES as str. Raises ServerFailure."""
    raws = list(response.raw_output_contents)
    if raws and len(raws) != len(response.outputs):
        raise ServerFailure(f"the server answered {len(raws)} raw contents for {len(response.outputs)} outputs")
    found = TensorOutputs(model_version=response.model_version)
    for place, tensor in enumerate(response.outputs):
        try:
            flat = _decoded(tensor.datatype, raws[place]) if raws else _typed(tensor)
            found[tensor.name] = flat.reshape(tuple(tensor.shape))
        except (KeyError, ValueError, struct.error) as error:
            raise ServerFailure(
                f"output '{tensor.name}' is no {tensor.datatype} of shape {list(tensor.shape)}: {error}"
            ) from error
    return found


def _decoded(datatype: str, raw: bytes) -> Array:
    if datatype == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)  # exact
    if datatype != "BYTES":
        return np.frombuffer(raw, DATATYPES[datatype].numpy).copy()  # a view of bytes cannot be written to
    parts: list[bytes] = []
    at = 0
    while at < len(raw):
        start = at + 4
        at = start + struct.unpack_from("<I", raw, at)[0]
        parts.append(raw[start:at])
    if at != len(raw):
        raise ValueError("its last element is cut")
    return _texts(parts)


def _typed(tensor: Any) -> Array:
    """Elements of the typed field, as other servers send them."""
    datatype = DATATYPES[tensor.datatype]
    if datatype.contents is None:
        raise ValueError("it has no raw contents")
    elements = getattr(tensor.contents, datatype.contents)
    return _texts(elements) if datatype.name == "BYTES" else np.array(elements, datatype.numpy)


def _texts(parts: Sequence[bytes]) -> Array:
    array = np.empty(len(parts), object)
    array[:] = [part.decode() for part in parts]
    return array
