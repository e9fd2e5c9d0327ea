"""ModelInfer's request, as far as it is read without protobuf: its top-level fields.

Most requests of a client differ only in id, parameters and the elements of their tensors. What is left without these,
the key, is a sequence of whole fields and of headers of raw contents. So two requests with the same key ask for the
same, and what protobuf and the checks found for the first holds for the second. Scanning takes 0.6 µs, those two 15.
"""

from typing import Final

from google.protobuf.message import Message

from ..pb import open_inference_pb2 as pb
from .protobuf_wire import LENGTH_DELIMITED


def _tag(message: type[Message], field: str) -> int:
    return message.DESCRIPTOR.fields_by_name[field].number << 3 | LENGTH_DELIMITED


ID: Final = _tag(pb.ModelInferRequest, "id")
PARAMETERS: Final = _tag(pb.ModelInferRequest, "parameters")
RAW: Final = _tag(pb.ModelInferRequest, "raw_input_contents")
KEPT: Final = frozenset(
    _tag(pb.ModelInferRequest, name) for name in ("model_name", "model_version", "inputs", "outputs")
)
EMPTY_FIELD_BYTES: Final = 2
"""Of a field without content: its tag, and a length of zero."""

ScannedRequest = tuple[bytes, bytes, bytes, list[int]]
"""The key; the field of the id, which is the same in a response; the fields of the parameters; where each entry of
raw_input_contents begins."""


def scan(payload: bytes) -> ScannedRequest | None:
    """Reads the top-level fields; None for anything unusual, which protobuf has to judge.

    Unusual are unknown fields, a second id, one above 127 bytes or not of ASCII, and what is cut short.
    """
    at = kept = 0
    size = len(payload)
    key = id_field = parameters = b""
    places: list[int] = []
    try:
        while at < size:
            tag = payload[at]
            length = payload[at + 1]
            begin = at + 2
            if length > 0x7F:
                length = length & 0x7F | payload[begin] << 7
                begin += 1
                if length > 0x3FFF:
                    length, begin = _long_varint(payload, at + 1)
            end = begin + length
            if tag in KEPT:
                at = end
                continue
            if tag == RAW:
                key += payload[kept:begin]
                places.append(begin)
            elif tag == ID and not id_field:
                key += payload[kept:at]
                id_field = payload[at:end]
            elif tag == PARAMETERS:
                key += payload[kept:at]
                parameters += payload[at:end]
            else:
                return None
            at = kept = end
    except IndexError:
        return None
    if at != size or not id_field.isascii():  # a length of two bytes is not ASCII either
        return None
    return key + payload[kept:], id_field if len(id_field) > EMPTY_FIELD_BYTES else b"", parameters, places


def _long_varint(payload: bytes, at: int) -> tuple[int, int]:
    """A varint of up to five bytes, and where it ends; raises IndexError for a longer one."""
    value = 0
    for shift in (0, 7, 14, 21, 28):
        byte = payload[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte <= 0x7F:
            return value, at
    raise IndexError("a varint of more than five bytes")
