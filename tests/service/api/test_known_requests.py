"""Classify requests that begin as one did before are answered as if they were the first."""

from concurrent.futures import Executor, Future
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api.image_classifier import ImageClassifier
from service.api.known_requests import MAX_KNOWN, KnownRequests
from service.batching.batch import TensorMap
from service.errors import ServiceError, UnknownModel
from service.pb import image_classifier_pb2 as pb
from service.runtime.model_metadata import ModelMetadata
from service.runtime.session import ModelSpec
from service.tensors import DATATYPES, TensorSpec
from tests.service.api.recording import RecordingBatcher, RecordingCall

MODEL, SIDE, CLASSES = "classifier", 4, 3
PIXELS = st.binary(min_size=SIDE * SIDE, max_size=SIDE * SIDE)


class InlineExecutor(Executor):
    """Does at once what it is given."""

    def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*arguments, **named))
        return future


def probabilities(inputs: TensorMap) -> TensorMap:
    """Something of each image that tells it from others."""
    rows = inputs["images"].reshape(len(inputs["images"]), -1).astype(np.float32) + 1
    parts = np.stack([rows[:, at::CLASSES].sum(axis=1) for at in range(CLASSES)], axis=1)
    shares = (parts / parts.sum(axis=1, keepdims=True)).astype(np.float32)
    return {"probabilities": shares, "logits": np.log(shares)}


class Asked:
    """ImageClassifier in front of one model with a recording batcher."""

    def __init__(self) -> None:
        images = TensorSpec("images", DATATYPES["UINT8"], (-1, SIDE, SIDE, 1))
        outputs = [TensorSpec(name, DATATYPES["FP32"], (-1, CLASSES)) for name in ("probabilities", "logits")]
        session = SimpleNamespace(
            spec=ModelSpec((images,), tuple(outputs)), metadata=ModelMetadata(labels=("a", "b", "c"))
        )
        self._endpoint: Any = SimpleNamespace(name=MODEL, version="1", session=session, batcher=None)
        repository: Any = SimpleNamespace(find=self._find, epoch=0, on_change=lambda _: None)
        self._classifier = ImageClassifier(
            repository, InlineExecutor(), max_image_pixels=10_000, max_decoding=100, digit_normalization=False
        )

    def _find(self, name: str, version: str = "") -> Any:
        if name != MODEL or version not in ("", "1"):
            raise UnknownModel(f"{name} {version}")
        return self._endpoint

    def ask(self, payload: bytes) -> tuple[Any, Any]:
        """What reached the batcher, and the answer."""
        batcher = self._endpoint.batcher = RecordingBatcher(probabilities)
        call = RecordingCall(payload)
        try:
            self._classifier.classify(call)
        except ServiceError as error:
            return None, (type(error), str(error))
        request, seen = batcher.request, None
        if request is not None:
            images = request.inputs["images"]
            seen = images.tobytes(), images.shape, images.dtype.str, request.rows, request.signature
            batcher.complete()
        return seen, call.answer


def usual(data: bytes, top_k: int = 0, *, logits: bool = False) -> pb.ClassifyRequest:
    pixels = pb.Pixels(height=SIDE, width=SIDE, channels=1, data=data)
    return pb.ClassifyRequest(model_name=MODEL, images=[pb.Image(pixels=pixels)], top_k=top_k, include_logits=logits)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A request of one image or, at times, of others; also with a field more in front or behind."""
    request = usual(draw(PIXELS), draw(st.sampled_from([0, 0, 1, 2, 300])), logits=draw(st.booleans()))
    request.model_version = draw(st.sampled_from(["", "", "", "1", "7"]))
    if draw(st.integers(0, 5)) == 0:
        request.images.append(request.images[0])
    request.images[0].pixels.width += draw(st.sampled_from([0, 0, 0, 0, 1]))
    more = draw(
        st.sampled_from([b"", b"", b""])
        | st.builds(lambda top_k: pb.ClassifyRequest(top_k=top_k).SerializeToString(), st.integers(0, 3))
        | st.just(b"\x48\x01")  # a field that nobody knows
    )
    payload = request.SerializeToString()
    return more + payload if draw(st.booleans()) else payload + more


@st.composite
def like(draw: st.DrawFn, payload: bytes) -> bytes:
    """Bytes that begin as a request does: other pixels, single bytes changed, or a part of it."""
    changed = bytearray(payload)
    if draw(st.booleans()):
        begin = max(0, len(changed) - SIDE * SIDE - draw(st.integers(0, 6)))
        other = draw(PIXELS)
        changed[begin : begin + SIDE * SIDE] = other[: len(changed) - begin]
    for at, octet in draw(st.lists(st.tuples(st.integers(0, len(changed) - 1), st.integers(0, 255)), max_size=2)):
        changed[at] = octet
    return bytes(changed[: draw(st.sampled_from([len(changed)] * 5 + [len(changed) - 1]))])


@settings(max_examples=200)
@given(st.data())
def test_known_and_new_answer_alike(data: st.DataObject) -> None:
    """Whatever came before, the model and the caller get the bytes that a server gives which knows nothing."""
    first = data.draw(messages())
    payloads = [data.draw(like(first) | messages()) for _ in range(3)]
    warm = Asked()
    for payload in (first, *payloads, first):
        assert warm.ask(payload) == Asked().ask(payload)


@settings(max_examples=200)
@given(st.data())
def test_found_request_says_the_same(data: st.DataObject) -> None:
    """What is found for a request is what protobuf reads in it: the same fields, and the pixels where they are."""
    first = usual(data.draw(PIXELS), data.draw(st.integers(0, 300)), logits=data.draw(st.booleans()))
    payload, known = first.SerializeToString(), KnownRequests[str]()
    tail = pb.ClassifyRequest(top_k=first.top_k, include_logits=first.include_logits).SerializeToString()
    content = first.images[0].pixels.data
    array = np.frombuffer(content, np.uint8).reshape(1, SIDE, SIDE, 1)
    known.remember(payload, first, content, tail, array, "plan")
    assert known.find(payload) is not None
    other = data.draw(like(payload))
    found = known.find(other)
    if found is None:
        return
    message = pb.ClassifyRequest.FromString(other)
    pixels = found.read(other)
    assert (pixels.tobytes(), pixels.shape, found.plan) == (message.images[0].pixels.data, array.shape, "plan")
    message.images[0].pixels.data = content
    assert message == first


@pytest.mark.parametrize("written", ["another order", "a field twice"])
def test_unusual_bytes_are_not_remembered(written: str) -> None:
    """A request that protobuf would not write so is read anew each time."""
    head, images = pb.ClassifyRequest(model_name=MODEL), pb.ClassifyRequest(images=usual(bytes(16)).images)
    parts = [images, head] if written == "another order" else [head, head, images]
    payload, known = b"".join(part.SerializeToString() for part in parts), KnownRequests[str]()
    message = pb.ClassifyRequest.FromString(payload)
    content = message.images[0].pixels.data
    known.remember(payload, message, content, b"", np.zeros((1, SIDE, SIDE, 1), np.uint8), "plan")
    assert known.find(payload) is None


def test_known_requests_are_bounded() -> None:
    """Many different requests do not pile up."""
    known, array = KnownRequests[str](), np.zeros((1, SIDE, SIDE, 1), np.uint8)
    for number in range(MAX_KNOWN + 10):
        request = usual(bytes(16))
        request.model_name = f"m{number:020}"
        known.remember(request.SerializeToString(), request, bytes(16), b"", array, "plan")
    assert 0 < len(known) <= MAX_KNOWN
