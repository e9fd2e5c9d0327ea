"""A request that is scanned says what protobuf says, or is left to protobuf."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api.infer_plan import MAX_KEY_BYTES, MAX_PLANS, InferPlan, InferPlans
from service.api.open_inference import InferenceProtocol
from service.api.request_scanner import scan
from service.batching.batch import TensorMap, split
from service.errors import InvalidRequest, ServiceError, UnknownModel
from service.pb import open_inference_pb2 as pb
from service.runtime.session import ModelSpec
from service.tensors import DATATYPES, TensorSpec
from tests.service.api.recording import RecordingBatcher, RecordingCall
from tests.service.api.wire_fields import Fields, request_fields, serialise, with_other_free_fields

FREE = ("id", "parameters", "raw_input_contents")


def parse(payload: bytes) -> pb.ModelInferRequest | None:
    try:
        return pb.ModelInferRequest.FromString(payload)
    except Exception:  # protobuf's DecodeError, whose module depends on the implementation
        return None


def rest(message: pb.ModelInferRequest) -> pb.ModelInferRequest:
    """The message without what no key has."""
    left = pb.ModelInferRequest()
    left.CopyFrom(message)
    for name in FREE:
        left.ClearField(name)
    return left


def usual(request_id: str = "", rows: int = 1, name: str = "sum", **parameters: int) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name=name, id=request_id)
    for parameter, number in parameters.items():
        message.parameters[parameter].int64_param = number
    for tensor in ("left", "right"):
        message.inputs.add(name=tensor, datatype="FP32", shape=[rows, 1])
        message.raw_input_contents.append(np.arange(rows, dtype="<f4").tobytes())
    return message


@settings(max_examples=400)
@given(request_fields())
def test_fields_are_read_as_protobuf_reads(fields: Fields) -> None:
    """Id, parameters and contents of whatever both can read are the same."""
    payload = serialise(fields)
    scanned, message = scan(payload), parse(payload)
    if scanned is None or message is None:
        return
    _, id_field, parameters, places = scanned
    assert pb.ModelInferResponse(id=message.id).SerializeToString() == id_field
    assert pb.ModelInferRequest.FromString(parameters).parameters == message.parameters
    raws = message.raw_input_contents
    assert [payload[at : at + len(raw)] for at, raw in zip(places, raws, strict=True)] == list(raws)


@settings(max_examples=400)
@given(st.data())
def test_one_key_is_one_request(data: st.DataObject) -> None:
    """Whatever else differs, requests with one key ask for the same, and both are messages or neither is."""
    fields = data.draw(request_fields())
    others = data.draw(with_other_free_fields(fields) | request_fields())
    one, other = (serialise(each) for each in (fields, others))
    scanned, scanned_other = scan(one), scan(other)
    if scanned is None or scanned_other is None or scanned[0] != scanned_other[0]:
        return
    if parse(scanned[2]) is None or parse(scanned_other[2]) is None:
        return  # parameters are read anew in each request
    message, message_other = parse(one), parse(other)
    assert (message is None) == (message_other is None)
    if message is not None and message_other is not None:
        assert rest(message) == rest(message_other)
        assert list(map(len, message.raw_input_contents)) == list(map(len, message_other.raw_input_contents))


@given(st.binary(max_size=200), st.integers(0, 90), st.integers(0, 255))
def test_damaged_requests_read_as_protobuf_reads(noise: bytes, at: int, byte: int) -> None:
    """Bytes that are cut short, changed or no message at all."""
    whole = usual("an id", timeout=7).SerializeToString()
    changed = bytearray(whole)
    changed[at % len(whole)] = byte
    for payload in (noise, whole[:at], bytes(changed), whole + noise):
        scanned, message = scan(payload), parse(payload)
        if scanned is not None and message is not None:
            assert pb.ModelInferResponse(id=message.id).SerializeToString() == scanned[1]
            assert len(scanned[3]) == len(message.raw_input_contents)


@pytest.mark.parametrize("cut", range(1, 20))
def test_truncated_requests_are_left_to_protobuf(cut: int) -> None:
    """Nothing is scanned beyond the end."""
    payload = usual("an id").SerializeToString()[:-cut]
    assert scan(payload) is None or parse(payload) is not None


@pytest.mark.parametrize("size", [0, 127, 128, 16_383, 16_384, 2**21 - 1, 2**21, 2**21 + 2**20])
def test_lengths_of_any_size_are_read(size: int) -> None:
    """Contents begin after a length of one to four bytes."""
    payload = pb.ModelInferRequest(model_name="sum", raw_input_contents=[bytes(size), b"end"]).SerializeToString()
    scanned = scan(payload)
    assert scanned is not None
    assert scanned[3] == [payload.index(b"end") - 2 - size, payload.index(b"end")]


def test_a_second_id_is_left_to_protobuf() -> None:
    """The last one counts, yet the first may make the message invalid."""
    assert scan(usual("one").SerializeToString() + usual("two").SerializeToString()) is None


class Asked:
    """The protocol in front of one model with a recording batcher, which gives ``total`` and ``twice``."""

    def __init__(self) -> None:
        self._company = 0
        tensors = [TensorSpec(name, DATATYPES["FP32"], (-1, 1)) for name in ("left", "right", "total", "twice")]
        spec = ModelSpec(tuple(tensors[:2]), tuple(tensors[2:]))
        session = SimpleNamespace(spec=spec, metadata=SimpleNamespace(labels=()))
        self._endpoint: Any = SimpleNamespace(name="sum", version="1", session=session, batcher=None)
        repository: Any = SimpleNamespace(find=self._find, epoch=0, on_change=lambda _: None)
        self._protocol = InferenceProtocol(repository, server_name="x", server_version="1", is_ready=lambda: True)

    def _find(self, name: str, version: str = "") -> Any:
        if name != "sum" or version not in ("", "1"):
            raise UnknownModel(f"{name} {version}")
        return self._endpoint

    def ask(self, payload: bytes, company: int = 0) -> tuple[Any, Any]:
        """What reached the batcher, and the answer."""
        self._company = company
        batcher = self._endpoint.batcher = RecordingBatcher(self._run)
        call = RecordingCall(payload)
        try:
            self._protocol.model_infer(call)
        except ServiceError as error:
            return None, (type(error), str(error))
        request = batcher.request
        assert request is not None
        inputs = {name: (array.tobytes(), array.shape, array.dtype.str) for name, array in request.inputs.items()}
        assert all(array.flags.aligned for array in request.inputs.values())
        seen = inputs, request.rows, request.signature, request.priority, request.deadline is None
        batcher.complete()
        return seen, call.answer

    def _run(self, inputs: TensorMap) -> TensorMap:
        """The sums of the inputs, as those of one of several requests that shared a run."""
        with np.errstate(over="ignore", invalid="ignore"):  # any bits are numbers here
            total = inputs["left"] + inputs["right"]
        company = self._company
        filler = np.full((company, 1), 7, np.float32)
        outputs = {name: np.concatenate([filler[:company], total]) for name in ("total", "twice")}
        return split(outputs, [company, len(total)] if company else [len(total)])[-1]


@settings(max_examples=400)
@given(st.data(), st.integers(0, 2))
def test_known_and_new_requests_answer_alike(data: st.DataObject, company: int) -> None:
    """Whether another request with its key came before or not, the model and the caller get the same bytes."""
    fields = data.draw(request_fields())
    others = data.draw(with_other_free_fields(fields))
    warm = Asked()
    warm.ask(serialise(others))
    for payload in (serialise(fields), serialise(others)):
        assert warm.ask(payload, company) == Asked().ask(payload, company)


@pytest.mark.parametrize("request_id", ["", "7", "nämlich", "i" * 127, "i" * 128])
def test_each_request_gets_its_own_id(request_id: str) -> None:
    """A response carries the id of its request, and nothing of those before it."""
    asked = Asked()
    for each in ("first", request_id, "last", request_id):
        payload = usual(each, priority=3).SerializeToString()
        seen, answer = asked.ask(payload)
        assert isinstance(answer, bytes)
        response = pb.ModelInferResponse.FromString(answer)
        assert (response.id, response.model_name) == (each, "sum")
        assert (seen, answer) == Asked().ask(payload)


def test_parameters_are_read_each_time() -> None:
    """A request that is like one before but for its parameters gets its own deadline and refusal."""
    asked = Asked()
    assert asked.ask(usual().SerializeToString())[0] == asked.ask(usual(timeout=0).SerializeToString())[0]
    assert asked.ask(usual().SerializeToString())[0][-1] is True  # without a deadline
    assert asked.ask(usual(timeout=5).SerializeToString())[0][-1] is False
    assert asked.ask(usual(timeout=-1).SerializeToString())[1][0] is InvalidRequest


def test_memory_is_bounded() -> None:
    """Neither many different requests nor long ones pile up."""
    plans, plan = InferPlans(), InferPlan.__new__(InferPlan)  # what is remembered is of no matter
    for number in range(MAX_PLANS + 10):
        plans.remember(b"%d" % number, plan)
    assert 0 < len(plans) <= MAX_PLANS
    plans.remember(bytes(MAX_KEY_BYTES + 1), plan)
    assert plans.find(bytes(MAX_KEY_BYTES + 1)) is None
