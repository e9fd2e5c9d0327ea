"""What is encoded by hand is what protobuf encodes."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from service.api.protobuf_wire import bytes_field, fixed32_tag, varint
from service.pb import image_classifier_pb2 as ic
from service.pb import open_inference_pb2 as pb


@given(st.integers(1, 2**32 - 1))
def test_varints_are_protobufs(value: int) -> None:
    assert ic.ModelSummary(image_height=value).SerializeToString()[1:] == varint(value)


@given(st.binary(max_size=70_000))
def test_fields_of_bytes_are_protobufs(content: bytes) -> None:
    number = pb.ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER
    message = pb.ModelInferResponse(raw_output_contents=[content])
    assert message.SerializeToString() == bytes_field(number, len(content)) + content


@given(st.floats(width=32).filter(lambda value: value != 0))
def test_floats_are_protobufs(value: float) -> None:
    message = ic.Class(probability=value)
    assert message.SerializeToString() == fixed32_tag(ic.Class.PROBABILITY_FIELD_NUMBER) + struct.pack("<f", value)
