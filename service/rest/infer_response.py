"""A response of ModelInfer becomes one over HTTP: JSON, with tensors in it or as bytes behind it."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import InvalidRequest
from ..pb import open_inference_pb2 as pb
from ..tensors import DATATYPES
from .infer_request import ResponseForm

PIECE = 4096
"""Elements that are written at a time: other threads run in between."""
MAX_JSON_ELEMENTS = 2**20
"""Of one output: half a second's work."""


def is_long(answer: bytes) -> bool:
    """Whether it may take more than a few milliseconds to write."""
    return len(answer) > PIECE * 8


def write_infer(answer: bytes, form: ResponseForm) -> tuple[bytes, int | None]:
    """The body for a serialised ModelInferResponse, and how much of it is JSON where that is not all of it.

    Raises InvalidRequest for an output that JSON cannot have.
    """
    message = pb.ModelInferResponse.FromString(answer)
    head: dict[str, Any] = {"model_name": message.model_name, "model_version": message.model_version}
    if message.id:
        head["id"] = message.id
    outputs, contents = [], []
    for tensor, raw in zip(message.outputs, message.raw_output_contents, strict=True):
        about: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if form.is_binary(tensor.name):
            contents.append(raw)
            outputs.append(_dumps(about | {"parameters": {"binary_data_size": len(raw)}}))
        else:
            outputs.append(f'{_dumps(about)[:-1]},"data":[{",".join(_elements(tensor, raw))}]}}')
    text = f'{_dumps(head)[:-1]},"outputs":[{",".join(outputs)}]}}'.encode()
    return (b"".join([text, *contents]), len(text)) if contents else (text, None)


def _elements(tensor: Any, raw: bytes) -> Iterator[str]:
    """The elements of an output as JSON, without brackets, in pieces."""
    datatype = DATATYPES[tensor.datatype]
    if datatype.name == "BF16":
        raise InvalidRequest(f"output '{tensor.name}' is BF16, for which JSON has no numbers: {BINARY}")
    if datatype.name == "BYTES":
        yield from (_dumps(text) for text in _texts(raw))
        return
    array = np.frombuffer(raw, datatype.numpy)
    if array.size > MAX_JSON_ELEMENTS:
        raise InvalidRequest(
            f"output '{tensor.name}' has {array.size} elements, and {MAX_JSON_ELEMENTS} may be in JSON: {BINARY}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidRequest(f"output '{tensor.name}' has elements that are no numbers of JSON (NaN): {BINARY}")
    for start in range(0, array.size, PIECE):
        yield _dumps(array[start : start + PIECE].tolist())[1:-1]


BINARY = "ask for binary data (binary_data, binary_data_output)"


def _texts(raw: bytes) -> Iterator[str]:
    """The elements of BYTES, each behind its length."""
    at = 0
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        yield raw[at + 4 : end].decode(errors="backslashreplace")
        at = end


def _dumps(value: Any) -> str:
    return ENCODER.encode(value)


ENCODER = json.JSONEncoder(separators=(",", ":"))
