"""Every refusal of the protocol, over both transports: its code, its words, and no harm to anybody else."""

import concurrent.futures
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.pb import open_inference_pb2 as pb
from tests.servers import ServerProcess
from tests.wire import TIMEOUT_S, ask, infer, infer_request, model_infer, refusal, send_bytes

INVALID, MISSING = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
UNAVAILABLE, EXHAUSTED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED
ONES = np.ones((1, 16), np.float32)


def good(model: str = "sum") -> pb.ModelInferRequest:
    return infer_request(model, left=ONES, right=ONES)


def changed(change: Callable[[pb.ModelInferRequest], Any]) -> pb.ModelInferRequest:
    request = good()
    change(request)
    return request


def typed(datatype: str, field: str, elements: list[Any], shape: tuple[int, ...] = (1, 2)) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=f"identity-{datatype.lower()}")
    tensor = request.inputs.add(name="x", datatype=datatype, shape=shape)
    getattr(tensor.contents, field).extend(elements)
    return request


def raw_strings(raw: bytes) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="identity-bytes", raw_input_contents=[raw])
    request.inputs.add(name="x", datatype="BYTES", shape=[1, 2])
    return request


def parameter(name: str, value: Any, field: str = "int64_param") -> pb.ModelInferRequest:
    return changed(lambda r: setattr(r.parameters[name], field, value))


REFUSALS: dict[str, tuple[pb.ModelInferRequest, grpc.StatusCode, str]] = {
    "unknown model": (good("nix"), MISSING, "Request for unknown model: 'nix' is not found"),
    "unknown version": (
        changed(lambda r: setattr(r, "model_version", "9")),
        MISSING,
        "Request for unknown model: 'sum' version 9 is not found",
    ),
    "version no integer": (
        changed(lambda r: setattr(r, "model_version", "one")),
        INVALID,
        "failed to get model version from specified version string 'one', version should be an integral value > 0",
    ),
    "version zero": (
        changed(lambda r: setattr(r, "model_version", "0")),
        INVALID,
        "failed to get model version from specified version string '0', version should be an integral value > 0",
    ),
    "rejected version": (
        infer_request("linear", "4", images=np.zeros((1, 8, 8, 1), np.uint8)),
        UNAVAILABLE,
        "Request for unknown model: 'linear' version 4 is not at ready state",
    ),
    "rejected model": (good("broken"), UNAVAILABLE, "Request for unknown model: 'broken' version 1 is not at ready"),
    "missing input": (
        infer_request("sum", left=ONES),
        INVALID,
        "expected 2 inputs but got 1 inputs for model 'sum'. Missing: 'right'",
    ),
    "no inputs": (infer_request("sum"), INVALID, "expected 2 inputs but got 0 inputs for model 'sum'"),
    "unknown input": (
        infer_request("sum", left=ONES, wrong=ONES),
        INVALID,
        "unexpected inference input 'wrong' for model 'sum'",
    ),
    "duplicate input": (
        changed(lambda r: setattr(r.inputs[1], "name", "left")),
        INVALID,
        "input 'left' for model 'sum' is given more than once",
    ),
    "unknown output": (
        infer_request("sum", outputs=["wrong"], left=ONES, right=ONES),
        INVALID,
        "unexpected inference output 'wrong' for model 'sum'",
    ),
    "duplicate output": (
        infer_request("sum", outputs=["total", "total"], left=ONES, right=ONES),
        INVALID,
        "output 'total' for model 'sum' is requested more than once",
    ),
    "wrong datatype": (
        infer_request("sum", left=ONES.astype(np.float64), right=ONES),
        INVALID,
        "inference input 'left' data-type is 'FP64', but model 'sum' expects 'FP32'",
    ),
    "unknown datatype": (
        changed(lambda r: setattr(r.inputs[0], "datatype", "FP8")),
        INVALID,
        "inference input 'left' data-type is 'FP8', but model 'sum' expects 'FP32'",
    ),
    "wrong shape": (
        infer_request("sum", left=np.ones((1, 17), np.float32), right=ONES),
        INVALID,
        "unexpected shape for input 'left' for model 'sum'. Expected [-1,16], got [1,17]",
    ),
    "wrong rank": (
        infer_request("sum", left=np.ones(16, np.float32), right=ONES),
        INVALID,
        "unexpected shape for input 'left' for model 'sum'. Expected [-1,16], got [16]",
    ),
    "negative axis": (
        changed(lambda r: r.inputs[0].shape.__setitem__(0, -1)),
        INVALID,
        "unexpected shape for input 'left' for model 'sum'. Expected [-1,16], got [-1,16]",
    ),
    "enormous axes": (
        changed(lambda r: r.inputs[0].shape.__setitem__(0, 2**62)),
        INVALID,
        "inference request batch-size must be <= 64 for 'sum'",
    ),
    "no rows": (
        infer_request("sum", left=ONES[:0], right=ONES[:0]),
        INVALID,
        "inference request batch-size must be >= 1 for 'sum'",
    ),
    "too many rows": (
        infer_request("sum", left=np.repeat(ONES, 65, 0), right=np.repeat(ONES, 65, 0)),
        INVALID,
        "inference request batch-size must be <= 64 for 'sum'",
    ),
    "different rows": (
        infer_request("sum", left=ONES, right=np.repeat(ONES, 2, 0)),
        INVALID,
        "input 'right' batch size does not match other inputs for 'sum'",
    ),
    "too few bytes": (
        changed(lambda r: r.raw_input_contents.__setitem__(0, bytes(60))),
        INVALID,
        "input byte size mismatch for input 'left' for model 'sum'. Expected 64, got 60",
    ),
    "too many bytes": (
        changed(lambda r: r.raw_input_contents.__setitem__(1, bytes(68))),
        INVALID,
        "input byte size mismatch for input 'right' for model 'sum'. Expected 64, got 68",
    ),
    "raw entries too few": (
        changed(lambda r: r.raw_input_contents.pop()),
        INVALID,
        "expected one entry of raw_input_contents for each of the 2 inputs for model 'sum', got 1",
    ),
    "raw and typed together": (
        changed(lambda r: r.inputs[0].contents.fp32_contents.extend([1.0] * 16)),
        INVALID,
        "contents field must not be specified when using raw_input_contents",
    ),
    "typed elements too few": (
        typed("FP32", "fp32_contents", [1.0]),
        INVALID,
        "input element count mismatch for input 'x' for model 'identity-fp32'. Expected 2, got 1",
    ),
    "no contents at all": (
        typed("FP32", "fp32_contents", []),
        INVALID,
        "input element count mismatch for input 'x' for model 'identity-fp32'. Expected 2, got 0",
    ),
    "typed field of another type": (
        typed("FP32", "fp64_contents", [1.0, 2.0]),
        INVALID,
        "input 'x' for model 'identity-fp32' is FP32: its elements belong in fp32_contents, but fp64_contents",
    ),
    "typed half precision": (
        typed("FP16", "fp32_contents", [1.0, 2.0]),
        INVALID,
        "input 'x' for model 'identity-fp16' is FP16, which must use raw_input_contents",
    ),
    "element out of range": (
        typed("INT8", "int_contents", [0, 128]),
        INVALID,
        "input 'x' for model 'identity-int8' has elements outside of INT8",
    ),
    "strings cut short": (raw_strings(b"\1\0\0\0a\5\0\0\0bc"), INVALID, "input 'x' for model 'identity-bytes' should"),
    "strings too long": (raw_strings(b"\1\0\0\0a\1\0\0\0bc"), INVALID, "input 'x' for model 'identity-bytes' should"),
    "strings with half a length": (raw_strings(b"\1\0\0\0a\1\0"), INVALID, "input 'x' for model 'identity-bytes' shou"),
    "strings that are no text": (
        raw_strings(b"\1\0\0\0\xff\0\0\0\0"),
        INVALID,
        "input 'x' for model 'identity-bytes' has an element that is not UTF-8 text",
    ),
    "shared memory in": (
        changed(lambda r: setattr(r.inputs[0].parameters["shared_memory_region"], "string_param", "region")),
        INVALID,
        "input 'left' for model 'sum' is in shared memory, which is not supported",
    ),
    "negative timeout": (parameter("timeout", -1), INVALID, "parameter 'timeout' must not be negative"),
    "timeout no number": (
        parameter("timeout", "soon", "string_param"),
        INVALID,
        "parameter 'timeout' must be a whole number (int64_param), got string_param",
    ),
    "priority below one": (parameter("priority", -3), INVALID, "parameter 'priority' must be 1 (the highest) or more"),
    "sequence by number": (
        parameter("sequence_id", 7),
        INVALID,
        "parameter 'sequence_id' is not supported: the models",
    ),
    "sequence by name": (parameter("sequence_id", "s", "string_param"), INVALID, "parameter 'sequence_id' is not"),
    "sequence start": (
        parameter("sequence_start", value=True, field="bool_param"),
        INVALID,
        "parameter 'sequence_start' is not",
    ),
    "sequence end": (
        parameter("sequence_end", value=True, field="bool_param"),
        INVALID,
        "parameter 'sequence_end' is not",
    ),
    "named axes of two lengths": (
        infer_request("two-axes", ids=np.ones((2, 3), np.int64), mask=np.ones((2, 4), np.int64)),
        INVALID,
        "axis 'length' is 3 in input 'ids' and 4 in input 'mask' for model 'two-axes'",
    ),
    "one named axis twice": (
        infer_request("square", x=np.ones((1, 3, 4), np.float32)),
        INVALID,
        "axis 'side' is 3 in input 'x' and 4 in input 'x' for model 'square'",
    ),
    "no elements": (
        infer_request("ragged", x=np.ones((2, 0), np.float32)),
        INVALID,
        "input 'x' for model 'ragged' has shape [2,0], and so no elements: there is nothing to compute",
    ),
    "index outside of the vocabulary": (
        infer_request("two-axes", ids=np.full((1, 2), 10), mask=np.ones((1, 2), np.int64)),
        INVALID,
        "model 'two-axes' cannot run this request in a Gather node: indices element out of data bounds, idx=10 must be",
    ),
    "classification of nothing": (
        changed(lambda r: setattr(r.outputs.add(name="total").parameters["classification"], "int64_param", 0)),
        INVALID,
        "output 'total' for model 'sum': classification needs a number above zero",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_has_its_code_and_words_and_the_server_goes_on(odd_server: ServerProcess, case: str) -> None:
    request, code, words = REFUSALS[case]
    with odd_server.channel() as channel:
        with pytest.raises(grpc.RpcError) as caught:
            infer(odd_server, request, channel)
        got_code, got_words = refusal(caught.value)
        assert (got_code, got_words[: len(words)]) == (code, words)
        assert infer(odd_server, good(), channel)["total"].tolist() == [[2.0] * 16]


def test_bytes_that_are_no_message_are_refused(odd_server: ServerProcess) -> None:
    with odd_server.channel() as channel:
        with pytest.raises(grpc.RpcError) as caught:
            send_bytes(odd_server, "/inference.GRPCInferenceService/ModelInfer", b"\xff" * 100)
        assert refusal(caught.value) == (INVALID, "the message is not a ModelInferRequest")
        assert infer(odd_server, good(), channel)["total"].tolist() == [[2.0] * 16]


def test_a_message_above_the_limit_is_refused(odd_server: ServerProcess) -> None:
    with odd_server.channel() as channel:
        request = good()
        request.id = "x" * 2**20
        with pytest.raises(grpc.RpcError) as caught:
            infer(odd_server, request, channel)
        code, words = refusal(caught.value)
        assert code == EXHAUSTED
        assert "larger than max" in words
        assert infer(odd_server, good(), channel)["total"].tolist() == [[2.0] * 16]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_messages_are_refused_as_such_or_answered(odd_server: ServerProcess, data: st.DataObject) -> None:
    """A flipped byte may hit a name, a length, a shape or nothing that matters; it is never our INTERNAL error."""
    case = data.draw(st.sampled_from(sorted(REFUSALS)))
    damaged = bytearray(REFUSALS[case][0].SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        send_bytes(odd_server, "/inference.GRPCInferenceService/ModelInfer", bytes(damaged))
    except grpc.RpcError as error:
        code = refusal(error)[0]
    else:
        code = grpc.StatusCode.OK
    assert code in {grpc.StatusCode.OK, INVALID, MISSING, UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


@pytest.mark.parametrize("method", ["ModelMetadata", "ModelConfig", "ModelReady"])
def test_questions_about_unknown_models_are_not_found(odd_server: ServerProcess, method: str) -> None:
    request = getattr(pb, f"{method}Request")
    for name, version, code in (("nix", "", MISSING), ("sum", "9", MISSING), ("sum", "one", INVALID)):
        with pytest.raises(grpc.RpcError) as caught:
            ask(odd_server, method, request(name=name, version=version))
        assert refusal(caught.value)[0] == code


def rows(*indices: int) -> pb.ModelInferRequest:
    """Rows for the model ``laborious``, which answers 10 x index, and fails for an index above 9."""
    return infer_request("laborious", index=np.array(indices), work=np.zeros(len(indices), np.int64))


def values(response: pb.ModelInferResponse) -> list[float]:
    answer: list[float] = np.frombuffer(response.raw_output_contents[0], np.float32).tolist()
    return answer


# On the patient server a request waits for others for ten seconds, or until 64 rows are there: so a
# test knows which requests share a run, however slow the machine is.


def test_a_request_that_makes_the_model_fail_does_not_harm_those_it_shares_a_run_with(
    patient_server: ServerProcess,
) -> None:
    with patient_server.channel() as channel:
        call = model_infer(channel)
        good, bad, rest = (
            call.future(request, timeout=TIMEOUT_S) for request in (rows(1, 2), rows(77), rows(*[3] * 61))
        )
        assert values(good.result()) == [10, 20]
        assert values(rest.result()) == [30] * 61
        code, words = refusal(bad.exception())
        assert code == INVALID
        assert words.startswith("model 'laborious' cannot run this request in a Gather node: indices element out of")


def test_a_full_queue_refuses_at_once_and_those_in_it_are_answered(patient_server: ServerProcess) -> None:
    with patient_server.channel() as channel:
        call = model_infer(channel)
        sizes = {call.future(rows(*[1] * size), timeout=TIMEOUT_S): size for size in (63, 62)}
        first_to_end = next(iter(concurrent.futures.as_completed(map(_finished, sizes)))).result()
        waiting = next(future for future in sizes if future is not first_to_end)
        code, message = refusal(first_to_end.exception())
        assert code == EXHAUSTED
        full = f"Exceeds maximum queue size: {sizes[waiting]} rows wait for 'laborious', 80 may. Try again "
        assert message.startswith(full)
        assert not waiting.done()
        assert values(call(rows(*[3] * (64 - sizes[waiting])), timeout=TIMEOUT_S))[0] == 30
        assert values(waiting.result()) == [10] * sizes[waiting]


def test_a_request_does_not_run_after_its_time_in_the_queue(patient_server: ServerProcess) -> None:
    with patient_server.channel() as channel:
        call = model_infer(channel)
        impatient = rows(77)
        impatient.parameters["timeout"].int64_param = 1
        late = call.future(impatient, timeout=TIMEOUT_S)
        assert values(call(rows(*[4] * 64), timeout=TIMEOUT_S)) == [40] * 64
        assert refusal(late.exception()) == (
            grpc.StatusCode.DEADLINE_EXCEEDED,
            "Request timeout expired: it waited in the queue for longer than the caller allows.",
        )


@pytest.mark.parametrize("leave", ["cancel", "deadline"])
def test_a_caller_that_goes_away_frees_its_place_and_never_reaches_the_model(
    patient_server: ServerProcess, leave: str
) -> None:
    """The rows of the one who leaves would make the model fail, and the log tell of it."""
    failures = sum(event["event"] == "request failed" for event in patient_server.events)
    with patient_server.channel() as channel:
        call = model_infer(channel)
        gone = call.future(rows(*[77] * 40), timeout=0.2 if leave == "deadline" else TIMEOUT_S)
        if leave == "cancel":
            gone.cancel()
        assert isinstance(_outcome(gone), (grpc.RpcError, grpc.FutureCancelledError))
        answer = call.future(rows(*[5] * 64), timeout=TIMEOUT_S)
        while answer.code() == EXHAUSTED:  # until the server has heard of it, there is no room
            answer = call.future(rows(*[5] * 64), timeout=TIMEOUT_S)
        assert values(answer.result()) == [50] * 64
    assert sum(event["event"] == "request failed" for event in patient_server.events) == failures


def _finished(call: Any) -> "concurrent.futures.Future[Any]":
    """A future that gets the call itself when it has ended."""
    ended: concurrent.futures.Future[Any] = concurrent.futures.Future()
    call.add_done_callback(lambda _: ended.set_result(call))
    return ended


def _outcome(future: Any) -> BaseException | None:
    try:
        error: BaseException | None = future.exception()
    except grpc.FutureCancelledError as cancelled:
        return cancelled
    return error
