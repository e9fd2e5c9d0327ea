"""An inference request over HTTP becomes a message of ModelInfer: JSON, with tensors in it or as bytes behind it.

The binary tensor extension is Triton's:
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NoReturn

import numpy as np

from ..api.protobuf_wire import bytes_field
from ..errors import InvalidRequest, Overloaded
from ..pb import open_inference_pb2 as pb
from ..tensors import DATATYPES, Array, Datatype, encode

RAW = pb.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER
MAX_JSON_BYTES = 8 * 2**20
"""The parser lets no other thread run meanwhile: 11 ms for each of these MiB."""
INT64 = range(-(2**63), 2**63)
REQUEST = frozenset(("id", "parameters", "inputs", "outputs"))
INPUT = frozenset(("name", "shape", "datatype", "parameters", "data"))
OUTPUT = frozenset(("name", "parameters"))
SHOWN = 80
"""Characters of what a caller sent that are repeated."""


@dataclass(frozen=True, slots=True)
class ResponseForm:
    """Which outputs a response has as bytes behind its JSON."""

    default: bool = False
    by_name: Mapping[str, bool] = field(default_factory=dict)

    def is_binary(self, name: str) -> bool:
        """Whether this output is one of them."""
        return self.by_name.get(name, self.default)


def read_json(text: bytes) -> dict[str, Any]:
    """The object that the text is; raises InvalidRequest or Overloaded."""
    if len(text) > MAX_JSON_BYTES:
        raise Overloaded(
            f"Received JSON larger than max ({len(text)} vs. {MAX_JSON_BYTES} bytes): "
            "send tensors as bytes behind it (binary_data_size)",
            retry_after_s=None,
        )
    try:
        document = DECODER.decode(text.decode())
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the request is no JSON: {str(error)[:SHOWN]}") from error
    if type(document) is not dict:
        raise InvalidRequest(f"the request is {_kind(document)}: a JSON object is expected")
    return document


def read_infer(body: bytes, header_length: str | None, model: str, version: str) -> tuple[bytes, ResponseForm]:
    """The serialised ModelInferRequest, and the form of its response; raises InvalidRequest or Overloaded."""
    try:
        return _read_infer(body, header_length, model, version)
    except UnicodeEncodeError as error:  # JSON can write halves of characters
        raise InvalidRequest(f"the request has a text that is no Unicode: {error.reason}") from error


def _read_infer(body: bytes, header_length: str | None, model: str, version: str) -> tuple[bytes, ResponseForm]:
    view = memoryview(body)
    at = _header_length(header_length, len(body))
    document = read_json(body[:at])
    _check_fields(document, REQUEST, "the request")
    message = pb.ModelInferRequest(model_name=model, model_version=version, id=_text(document, "id", "the request"))
    parameters = _parameters(document, "the request")
    binary = _flag(parameters.pop("binary_data_output", False), "binary_data_output")
    _set_parameters(message.parameters, parameters)
    contents: list[bytes | memoryview] = []
    for entry in _objects(document, "inputs"):
        tensor = message.inputs.add()
        size, data = _read_input(tensor, entry)
        if size is None:
            contents.append(data)
            continue
        if at + size > len(body):
            raise InvalidRequest(
                f"input '{tensor.name}' has binary_data_size {size}, but {len(body) - at} bytes are left of the body"
            )
        contents.append(view[at : at + size])
        at += size
    if at != len(body):
        raise InvalidRequest(f"the body has {len(body) - at} bytes more than its inputs' binary_data_size say")
    form = ResponseForm(binary, dict(_read_output(message, entry) for entry in _objects(document, "outputs")))
    parts: list[bytes | memoryview] = [message.SerializeToString()]
    for content in contents:
        parts += (bytes_field(RAW, len(content)), content)
    return b"".join(parts), form


def _header_length(text: str | None, size: int) -> int:
    """Where the JSON ends."""
    if text is None:
        return size
    if not text.isascii() or not text.isdigit() or len(text) > len(str(size)) or int(text) > size:
        raise InvalidRequest(
            f"Inference-Header-Content-Length is {text[:SHOWN]!r}: "
            f"a whole number up to the length of the body, {size}, is expected"
        )
    return int(text)


def _read_input(tensor: Any, entry: dict[str, Any]) -> tuple[int | None, bytes]:
    """Reads an input but for its bytes: how many there are behind the JSON, or those of its ``data``."""
    tensor.name = _text(entry, "name", "an input")
    place = f"input '{tensor.name[:SHOWN]}'"
    _check_fields(entry, INPUT, place)
    tensor.datatype = _text(entry, "datatype", place)
    shape = _shape(entry.get("shape"), place)
    tensor.shape.extend(shape)
    parameters = _parameters(entry, place)
    size = parameters.pop("binary_data_size", None)
    _set_parameters(tensor.parameters, parameters)
    if size is not None:
        if type(size) is not int or size < 0:
            raise InvalidRequest(f"binary_data_size of {place} is {_shown(size)}: a whole number from 0 on is expected")
        if "data" in entry:
            raise InvalidRequest(f"{place} has both data and binary_data_size: one of them is expected")
        return size, b""
    if "shared_memory_region" in parameters:
        return None, b""  # it is refused with the words that gRPC has for it
    if "data" not in entry:
        raise InvalidRequest(f"{place} has neither data nor binary_data_size")
    datatype = DATATYPES.get(tensor.datatype)
    if datatype is None:
        raise InvalidRequest(f"{place} is of datatype {_shown(tensor.datatype)}; {', '.join(DATATYPES)} are known")
    return None, encode(_elements(entry["data"], shape, datatype, place), datatype)


def _read_output(message: pb.ModelInferRequest, entry: dict[str, Any]) -> tuple[str, bool]:
    """Adds an output that is wanted; whether it is wanted as bytes."""
    name = _text(entry, "name", "an output")
    place = f"output '{name[:SHOWN]}'"
    _check_fields(entry, OUTPUT, place)
    parameters = _parameters(entry, place)
    binary = _flag(parameters.pop("binary_data", False), f"binary_data of {place}")
    _set_parameters(message.outputs.add(name=name).parameters, parameters)
    return name, binary


def _elements(data: Any, shape: list[int], datatype: Datatype, place: str) -> Array:
    """The elements of a tensor, in one list or nested as its shape says."""
    if datatype.name == "BF16":
        raise InvalidRequest(f"{place} is BF16, for which JSON has no numbers: send binary data (binary_data_size)")
    flat = _flatten(data, shape, place)
    if len(flat) != math.prod(shape):
        raise InvalidRequest(f"{place} has {len(flat)} elements in data, and {math.prod(shape)} by its shape {shape}")
    kinds = set(map(type, flat))
    wanted = _element_kinds(datatype)
    if not kinds <= wanted:
        odd = next(element for element in flat if type(element) not in wanted)
        raise InvalidRequest(f"{place} is {datatype.name}, and has the element {_shown(odd)}")
    try:
        with np.errstate(over="ignore"):
            array = np.array(flat, datatype.numpy)
    except OverflowError:
        raise _outside(place, datatype) from None
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise _outside(place, datatype)
    return array


def _flatten(data: Any, shape: list[int], place: str) -> list[Any]:
    if type(data) is not list:
        raise InvalidRequest(f"data of {place} is {_kind(data)}: a list is expected")
    if not data or type(data[0]) is not list:
        return data
    level = [data]
    for length in shape:
        if set(map(type, level)) != {list} or set(map(len, level)) != {length}:
            raise InvalidRequest(f"data of {place} is not nested as its shape {shape} says")
        level = list(chain.from_iterable(level))
    return level


def _element_kinds(datatype: Datatype) -> set[type]:
    if datatype.numpy.kind == "f":
        return {int, float}
    return {{"b": bool, "O": str}.get(datatype.numpy.kind, int)}


def _outside(place: str, datatype: Datatype) -> InvalidRequest:
    return InvalidRequest(f"{place} has elements outside of {datatype.name}")


def _shape(shape: Any, place: str) -> list[int]:
    if type(shape) is not list or any(type(axis) is not int or axis < 0 or axis not in INT64 for axis in shape):
        raise InvalidRequest(f"shape of {place} is {_shown(shape)}: a list of whole numbers from 0 on is expected")
    return shape


def _objects(document: dict[str, Any], name: str) -> Iterable[dict[str, Any]]:
    entries = document.get(name, [])
    if type(entries) is not list or any(type(entry) is not dict for entry in entries):
        raise InvalidRequest(f"{name} of the request is {_kind(entries)}: a list of objects is expected")
    return entries


def _text(document: dict[str, Any], name: str, place: str) -> str:
    text = document.get(name, "")
    if type(text) is not str:
        raise InvalidRequest(f"{name} of {place} is {_kind(text)}: a text is expected")
    return text


def _flag(value: Any, name: str) -> bool:
    if type(value) is not bool:
        raise InvalidRequest(f"{name} is {_shown(value)}: true or false is expected")
    return value


def _check_fields(document: dict[str, Any], known: frozenset[str], place: str) -> None:
    if not document.keys() <= known:
        unknown = min(document.keys() - known)
        raise InvalidRequest(f"{place} has the unknown field {_shown(unknown)}; {', '.join(sorted(known))} are known")


def _parameters(document: dict[str, Any], place: str) -> dict[str, Any]:
    parameters = document.get("parameters", {})
    if type(parameters) is not dict:
        raise InvalidRequest(f"parameters of {place} are {_kind(parameters)}: an object is expected")
    return parameters


def _set_parameters(target: Any, parameters: dict[str, Any]) -> None:
    for name, value in parameters.items():
        choice = PARAMETERS.get(type(value))
        if choice is None or (choice == "int64_param" and value not in INT64):
            raise InvalidRequest(
                f"parameter {_shown(name)} is {_shown(value)}: a text, true, false or a number is expected"
            )
        setattr(target[name], choice, value)


PARAMETERS = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _kind(value: Any) -> str:
    """What a value of JSON is."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
