"""A request that begins and ends as one before is read as protobuf would read it, or not recognised at all."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.api.request_scanner import MAX_FRAME_BYTES, MAX_KNOWN, RequestScanner
from service.pb import image_classifier_pb2 as ic
from service.pb import open_inference_pb2 as pb
from service.tensors import DATATYPES, Array, TensorSpec

SPEC = TensorSpec("images", DATATYPES["UINT8"], (-1, 2, 3, 1))
LABEL = "what it means"


def infer_request(content: bytes, model: str = "mnist-tiny", datatype: str = "UINT8") -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name="images", datatype=datatype, shape=(len(content) // 6, 2, 3, 1))
    request.raw_input_contents.append(content)
    return request


def view(content: bytes) -> Array:
    return np.frombuffer(content, np.uint8).reshape(-1, 2, 3, 1)


def learned(content: bytes) -> RequestScanner[str]:
    heads: RequestScanner[str] = RequestScanner()
    request = infer_request(content)
    heads.remember(request.SerializeToString(), request, content, b"", SPEC, view(content), LABEL)
    return heads


@given(st.integers(1, 50), st.data())
def test_the_content_is_read_where_it_lies(rows: int, data: st.DataObject) -> None:
    first, second = (data.draw(st.binary(min_size=rows * 6, max_size=rows * 6)) for _ in range(2))
    heads = learned(first)
    payload = infer_request(second).SerializeToString()
    head = heads.find(payload)
    assert head is not None
    assert head.plan == LABEL
    read = head.read(payload)
    assert read.tobytes() == second
    assert read.shape == (rows, 2, 3, 1)
    assert not read.flags.owndata
    assert not read.flags.writeable


def test_another_model_length_or_shape_is_not_recognised() -> None:
    heads = learned(bytes(12))
    for other in (
        infer_request(bytes(12), "mnist-deep"),
        infer_request(bytes(18)),
        infer_request(bytes(12), datatype="INT8"),
    ):
        assert heads.find(other.SerializeToString()) is None
    reshaped = infer_request(bytes(12))
    reshaped.inputs[0].shape[:] = [2, 3, 2, 1]
    assert len(reshaped.SerializeToString()) == len(infer_request(bytes(12)).SerializeToString())
    assert heads.find(reshaped.SerializeToString()) is None
    assert heads.find(b"") is None


@given(st.binary(max_size=400))
def test_whatever_is_recognised_says_what_protobuf_says(noise: bytes) -> None:
    """Bytes that were no message, or another one, are never taken for one that was learned."""
    heads = learned(bytes(12))
    head = heads.find(noise)
    if head is not None:
        message = pb.ModelInferRequest.FromString(noise)
        assert message.raw_input_contents[0] == head.read(noise).tobytes()


def test_a_message_written_in_another_order_is_not_learned() -> None:
    """Its tensor's bytes could be part of anything, as here of the model's name."""
    content = bytes(range(12))
    request = infer_request(content)
    raw = pb.ModelInferRequest(raw_input_contents=[content])
    bare = pb.ModelInferRequest()
    bare.CopyFrom(request)
    bare.ClearField("raw_input_contents")
    payload = raw.SerializeToString() + bare.SerializeToString()
    assert pb.ModelInferRequest.FromString(payload) == request
    heads: RequestScanner[str] = RequestScanner()
    heads.remember(payload, request, content, b"", SPEC, view(content), LABEL)
    assert heads.find(payload) is None


def test_elements_across_their_boundaries_are_not_learned() -> None:
    spec = TensorSpec("images", DATATYPES["FP32"], (-1, 2, 3, 1))
    found = []
    for extra in range(4):
        content = bytes(24)
        request = infer_request(content, "a-model-" + "x" * extra, "FP32")
        payload = request.SerializeToString()
        heads: RequestScanner[str] = RequestScanner()
        heads.remember(payload, request, content, b"", spec, np.frombuffer(content, "<f4").reshape(1, 2, 3, 1), LABEL)
        head = heads.find(payload)
        found.append(head is not None)
        if head is not None:
            assert head.read(payload).flags.aligned
    assert sorted(found) == [False, False, False, True]


def test_what_follows_the_content_is_compared_too() -> None:
    def request(data: bytes, top_k: int) -> ic.ClassifyRequest:
        pixels = ic.Pixels(height=2, width=3, channels=1, data=data)
        return ic.ClassifyRequest(model_name="mnist-tiny", images=[ic.Image(pixels=pixels)], top_k=top_k)

    heads: RequestScanner[str] = RequestScanner()
    known, after = request(bytes(6), 3), ic.ClassifyRequest(top_k=3).SerializeToString()
    heads.remember(known.SerializeToString(), known, bytes(6), after, SPEC, view(bytes(6)), LABEL)
    again = request(b"abcdef", 3).SerializeToString()
    head = heads.find(again)
    assert head is not None
    assert head.read(again).tobytes() == b"abcdef"
    assert heads.find(request(b"abcdef", 4).SerializeToString()) is None


def test_memory_is_bounded_in_number_and_in_size() -> None:
    heads = learned(bytes(12))
    for number in range(MAX_KNOWN + 10):
        content = bytes(12 + 6 * number)
        request = infer_request(content)
        heads.remember(request.SerializeToString(), request, content, b"", SPEC, view(content), LABEL)
    assert len(heads) <= MAX_KNOWN
    long = infer_request(bytes(12), "m" * MAX_FRAME_BYTES)
    heads.remember(long.SerializeToString(), long, bytes(12), b"", SPEC, view(bytes(12)), LABEL)
    assert heads.find(long.SerializeToString()) is None
