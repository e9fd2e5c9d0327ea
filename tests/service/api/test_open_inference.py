"""The Open Inference Protocol over both transports: every datatype and form, and what is told of models."""

import re
import struct
from pathlib import Path
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest

from service import __version__
from service.pb import open_inference_pb2 as pb
from tests.servers import ServerProcess
from tests.wire import TIMEOUT_S, arrays, ask, infer, infer_request, model_infer, refusal, send_bytes

NUMERIC = ["bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"]
FLOATS = {"fp16": "float16", "fp32": "float32", "fp64": "float64"}
TYPED = {
    "BOOL": ("bool_contents", [True, False]),
    "UINT8": ("uint_contents", [0, 255]),
    "UINT16": ("uint_contents", [0, 65535]),
    "UINT32": ("uint_contents", [0, 2**32 - 1]),
    "UINT64": ("uint64_contents", [0, 2**64 - 1]),
    "INT8": ("int_contents", [-128, 127]),
    "INT16": ("int_contents", [-32768, 32767]),
    "INT32": ("int_contents", [-(2**31), 2**31 - 1]),
    "INT64": ("int64_contents", [-(2**63), 2**63 - 1]),
    "FP32": ("fp32_contents", [1.5, float("inf")]),
    "FP64": ("fp64_contents", [1e300, -0.0]),
}


def extremes(dtype: str) -> Any:
    if dtype == "bool":
        return np.array([[True, False], [False, False], [True, True]])
    limits: Any = np.finfo(dtype) if dtype.startswith("float") else np.iinfo(dtype)
    return np.array([[limits.min, limits.max], [0, 1], [limits.max, limits.min]], dtype=dtype)


@pytest.mark.parametrize(
    ("model", "dtype"),
    [(f"identity-{dtype}", dtype) for dtype in NUMERIC] + [(f"identity-{name}", FLOATS[name]) for name in FLOATS],
)
def test_every_numeric_datatype_makes_the_round_trip(odd_server: ServerProcess, model: str, dtype: str) -> None:
    array = extremes(dtype)
    outputs = infer(odd_server, infer_request(model, x=array))
    assert outputs["y"].dtype == array.dtype
    assert np.array_equal(outputs["y"], array)


def test_bfloat16_makes_the_round_trip(odd_server: ServerProcess) -> None:
    array = np.array([[1.5, -2.0], [float("inf"), 3e38]], dtype=ml_dtypes.bfloat16)
    request = pb.ModelInferRequest(model_name="identity-bf16", raw_input_contents=[array.tobytes()])
    request.inputs.add(name="x", datatype="BF16", shape=array.shape)
    with odd_server.channel() as channel:
        response = model_infer(channel)(request, timeout=TIMEOUT_S)
    assert response.outputs[0].datatype == "BF16"
    assert response.raw_output_contents[0] == array.tobytes()


def test_strings_make_the_round_trip(odd_server: ServerProcess) -> None:
    texts = ["", "Straße", "日本", "a\0b"]
    array = np.array([text.encode() for text in texts], dtype=object).reshape(2, 2)
    with odd_server.channel() as channel:
        response = model_infer(channel)(infer_request("identity-bytes", x=array), timeout=TIMEOUT_S)
    assert (response.outputs[0].datatype, list(response.outputs[0].shape)) == ("BYTES", [2, 2])
    assert response.raw_output_contents[0] == b"".join(
        struct.pack("<I", len(text.encode())) + text.encode() for text in texts
    )


@pytest.mark.parametrize("datatype", TYPED)
def test_typed_contents_are_as_good_as_raw(odd_server: ServerProcess, datatype: str) -> None:
    field, elements = TYPED[datatype]
    request = pb.ModelInferRequest(model_name=f"identity-{datatype.lower()}")
    tensor = request.inputs.add(name="x", datatype=datatype, shape=[1, 2])
    getattr(tensor.contents, field).extend(elements)
    assert infer(odd_server, request)["y"].tolist() == [elements]


def test_typed_strings_are_as_good_as_raw(odd_server: ServerProcess) -> None:
    request = pb.ModelInferRequest(model_name="identity-bytes")
    request.inputs.add(name="x", datatype="BYTES", shape=[1, 2]).contents.bytes_contents.extend([b"one", b"zwei"])
    with odd_server.channel() as channel:
        response = model_infer(channel)(request, timeout=TIMEOUT_S)
    assert response.raw_output_contents[0] == b"\3\0\0\0one\4\0\0\0zwei"


def test_several_inputs_in_any_order_and_several_outputs(odd_server: ServerProcess) -> None:
    left, right = np.arange(32, dtype=np.float32).reshape(2, 16), np.ones((2, 16), np.float32)
    outputs = infer(odd_server, infer_request("sum", right=right, left=left))
    assert np.array_equal(outputs["total"], left + right)
    assert np.array_equal(outputs["difference"], left - right)


def test_only_the_outputs_asked_for_come_back_in_their_order(odd_server: ServerProcess) -> None:
    ones = np.ones((1, 16), np.float32)
    one = infer(odd_server, infer_request("sum", outputs=["difference"], left=ones, right=ones))
    assert list(one) == ["difference"]
    both = infer(odd_server, infer_request("sum", outputs=["difference", "total"], left=ones, right=ones))
    assert list(both) == ["difference", "total"]


def test_a_model_without_a_batch_axis_runs_unbatched(odd_server: ServerProcess) -> None:
    outputs = infer(odd_server, infer_request("fixed", x=np.array([1, 2, 3], np.float32)))
    assert outputs["y"].tolist() == [2, 4, 6]
    assert ask(odd_server, "ModelConfig", pb.ModelConfigRequest(name="fixed")).config.max_batch_size == 0


def test_a_model_whose_rows_depend_on_each_other_is_never_batched(odd_server: ServerProcess) -> None:
    """``mean`` declares free axes, but mixes its rows: joined, one caller would see another's data."""
    request = infer_request("mean", x=np.array([[1, 2], [3, 4]], np.float32))
    assert infer(odd_server, request)["y"].tolist() == [[2, 3]]
    assert ask(odd_server, "ModelConfig", pb.ModelConfigRequest(name="mean")).config.max_batch_size == 0


def test_free_axes_take_any_length(odd_server: ServerProcess) -> None:
    for length in (1, 5, 17):
        array = np.arange(2 * length, dtype=np.float32).reshape(2, length)
        assert np.array_equal(infer(odd_server, infer_request("ragged", x=array))["y"], array)


def test_the_id_and_the_chosen_version_are_echoed(odd_server: ServerProcess) -> None:
    request = infer_request("linear", images=np.zeros((1, 8, 8, 1), np.uint8))
    request.id = "request 7"
    with odd_server.channel() as channel:
        response = model_infer(channel)(request, timeout=TIMEOUT_S)
        assert (response.id, response.model_name, response.model_version) == ("request 7", "linear", "3")
        request.model_version = "1"
        assert model_infer(channel)(request, timeout=TIMEOUT_S).model_version == "1"


def test_the_classification_extension_gives_value_index_and_label(odd_server: ServerProcess) -> None:
    images = np.random.default_rng(1).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)
    probabilities = infer(odd_server, infer_request("linear", images=images))["probabilities"]
    request = infer_request("linear", images=images)
    request.outputs.add(name="probabilities").parameters["classification"].int64_param = 2
    with odd_server.channel() as channel:
        response = model_infer(channel)(request, timeout=TIMEOUT_S)
    assert (response.outputs[0].datatype, list(response.outputs[0].shape)) == ("BYTES", [3, 2])
    texts = []
    raw = response.raw_output_contents[0]
    while raw:
        length = struct.unpack("<I", raw[:4])[0]
        texts.append(raw[4 : 4 + length].decode())
        raw = raw[4 + length :]
    best = np.argsort(-probabilities, axis=1)[:, :2]
    assert texts == [
        f"{probabilities[row, index]:.6f}:{index}:class {index}" for row in range(3) for index in best[row]
    ]


def test_the_server_tells_that_it_lives_and_is_ready(odd_server: ServerProcess) -> None:
    assert ask(odd_server, "ServerLive", pb.ServerLiveRequest()).live
    assert ask(odd_server, "ServerReady", pb.ServerReadyRequest()).ready
    metadata = ask(odd_server, "ServerMetadata", pb.ServerMetadataRequest())
    assert (metadata.name, metadata.version) == ("convserve", __version__)
    assert "classification" in metadata.extensions


def test_model_ready_tells_of_each_version(odd_server: ServerProcess) -> None:
    assert ask(odd_server, "ModelReady", pb.ModelReadyRequest(name="linear")).ready
    assert ask(odd_server, "ModelReady", pb.ModelReadyRequest(name="linear", version="1")).ready
    assert not ask(odd_server, "ModelReady", pb.ModelReadyRequest(name="linear", version="4")).ready
    assert not ask(odd_server, "ModelReady", pb.ModelReadyRequest(name="broken")).ready


def test_metadata_has_the_batch_axis_and_config_has_not(odd_server: ServerProcess) -> None:
    metadata = ask(odd_server, "ModelMetadata", pb.ModelMetadataRequest(name="linear"))
    assert list(metadata.versions) == ["1", "3"]
    assert metadata.platform == "onnxruntime_onnx"
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [("images", "UINT8", [-1, 8, 8, 1])]
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.outputs] == [
        ("logits", "FP32", [-1, 10]),
        ("probabilities", "FP32", [-1, 10]),
    ]
    assert metadata.properties["convserve.dataset"] == "random"
    assert "convserve.probe" not in metadata.properties
    config = ask(odd_server, "ModelConfig", pb.ModelConfigRequest(name="linear")).config
    assert config.max_batch_size == 64
    assert (list(config.input[0].dims), config.input[0].format) == ([8, 8, 1], pb.ModelInput.FORMAT_NHWC)
    assert config.input[0].data_type == pb.TYPE_UINT8


def test_the_index_lists_what_is_served_and_why_the_rest_is_not(odd_server: ServerProcess) -> None:
    index = ask(odd_server, "RepositoryIndex", pb.RepositoryIndexRequest())
    states = {(model.name, model.version): (model.state, model.reason) for model in index.models}
    assert states["linear", "3"] == ("READY", "")
    assert states["broken", "1"][0] == "UNAVAILABLE"
    assert "it is no ONNX file, or not all of one" in states["broken", "1"][1]
    assert "logits are off by 0.5, 0.0001 is allowed" in states["linear", "4"][1]
    ready = ask(odd_server, "RepositoryIndex", pb.RepositoryIndexRequest(ready=True))
    assert {model.state for model in ready.models} == {"READY"}


def stream(server: ServerProcess, requests: list[pb.ModelInferRequest]) -> list[pb.ModelStreamInferResponse]:
    with server.channel() as channel:
        call = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )
        return list(call(iter(requests), timeout=TIMEOUT_S))


def test_a_stream_answers_each_request_in_order_and_goes_on_after_an_error(odd_server: ServerProcess) -> None:
    """More requests than may be in flight at once, every tenth of them for a model that is not there.

    Each answer has the id of its request, an error too, and says that it is the last one to it.
    """
    requests = [
        infer_request("nix" if i % 10 == 5 else "identity-fp32", x=np.full((1, 2), i, np.float32)) for i in range(200)
    ]
    for i, request in enumerate(requests):
        request.id = f"request {i}"
    answers = stream(odd_server, requests)
    assert len(answers) == 200
    for i, answer in enumerate(answers):
        assert answer.infer_response.id == f"request {i}"
        assert answer.infer_response.parameters["triton_final_response"].bool_param
        if i % 10 == 5:
            assert answer.error_message == "Request for unknown model: 'nix' is not found"
        else:
            assert arrays(answer.infer_response)["y"].tolist() == [[i, i]]


def test_a_stream_of_nothing_ends(odd_server: ServerProcess) -> None:
    assert stream(odd_server, []) == []


def test_a_stream_that_is_left_takes_its_requests_along(patient_server: ServerProcess) -> None:
    """What it had queued never runs (the model would fail), and its rows are free again."""
    failures = sum(event["event"] == "request failed" for event in patient_server.events)
    one = np.zeros(1, np.int64)
    with patient_server.channel() as channel:
        call = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )
        left: Any = call(iter([infer_request("laborious", index=one + 77, work=one)] * 40), timeout=TIMEOUT_S)
        full = np.zeros(64, np.int64)
        request = infer_request("laborious", index=full, work=full)
        left.cancel()
        infer_call = model_infer(channel)
        answer = infer_call.future(request, timeout=TIMEOUT_S)
        while answer.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:  # until the server has heard of it
            answer = infer_call.future(request, timeout=TIMEOUT_S)
        assert answer.result().raw_output_contents
    assert sum(event["event"] == "request failed" for event in patient_server.events) == failures


def test_statistics_count_requests_rows_and_runs(odd_server: ServerProcess) -> None:
    def counted() -> Any:
        return ask(odd_server, "ModelStatistics", pb.ModelStatisticsRequest(name="identity-int8")).model_stats[0]

    before = counted()
    for number, rows in enumerate((3, 3, 5)):
        infer(odd_server, infer_request("identity-int8", x=np.zeros((rows, 2), np.int8)))
        assert counted().execution_count == before.execution_count + number + 1  # counted before it is answered
    after = counted()
    assert after.inference_count - before.inference_count == 11
    assert after.execution_count - before.execution_count == 3
    assert after.inference_stats.success.count - before.inference_stats.success.count == 3
    assert after.inference_stats.success.ns > before.inference_stats.success.ns
    runs = {entry.batch_size: entry.compute_infer.count for entry in after.batch_stats}
    assert runs[3] >= 2
    assert runs[5] >= 1
    assert after.last_inference > 1_700_000_000_000


def test_statistics_are_of_one_version_all_versions_or_all_models(odd_server: ServerProcess) -> None:
    def names(**which: str) -> list[tuple[str, str]]:
        answer = ask(odd_server, "ModelStatistics", pb.ModelStatisticsRequest(**which))
        return [(entry.name, entry.version) for entry in answer.model_stats]

    assert names(name="linear", version="1") == [("linear", "1")]
    assert names(name="linear") == [("linear", "1"), ("linear", "3")]
    assert len(names()) > 10


@pytest.mark.parametrize("method", ["RepositoryModelLoad", "RepositoryModelUnload"])
def test_loading_wants_explicit_control(odd_server: ServerProcess, method: str) -> None:
    """Without --model-control explicit, loading and unloading are refused, and the option is named."""
    with pytest.raises(grpc.RpcError) as caught:
        ask(odd_server, method, getattr(pb, f"{method}Request")(model_name="linear"))
    code, words = refusal(caught.value)
    assert code == grpc.StatusCode.UNIMPLEMENTED
    assert words.startswith("explicit model load / unload is not allowed: the server was started with --model-control")


@pytest.mark.parametrize("kind", ["System", "Cuda"])
def test_there_is_no_shared_memory(odd_server: ServerProcess, kind: str) -> None:
    """Its status is empty, unregistering is done, and registering is refused."""
    status = ask(odd_server, f"{kind}SharedMemoryStatus", getattr(pb, f"{kind}SharedMemoryStatusRequest")())
    assert not status.regions
    ask(odd_server, f"{kind}SharedMemoryUnregister", getattr(pb, f"{kind}SharedMemoryUnregisterRequest")(name="x"))
    with pytest.raises(grpc.RpcError) as caught:
        ask(odd_server, f"{kind}SharedMemoryRegister", getattr(pb, f"{kind}SharedMemoryRegisterRequest")(name="x"))
    assert refusal(caught.value) == (
        grpc.StatusCode.UNIMPLEMENTED,
        "shared memory is not supported: send tensors in the request, as raw_input_contents",
    )


def test_an_extension_we_do_not_have_is_unimplemented(odd_server: ServerProcess) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        send_bytes(odd_server, "/inference.GRPCInferenceService/TraceSetting", b"")
    assert refusal(caught.value)[0] == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("linear", pb.ModelInput.FORMAT_NHWC),
        ("channels-first", pb.ModelInput.FORMAT_NCHW),
        ("grey-both", pb.ModelInput.FORMAT_NHWC),
        ("one-image", pb.ModelInput.FORMAT_NCHW),
        ("sum", pb.ModelInput.FORMAT_NONE),
    ],
)
def test_formats_follow_the_shape(odd_server: ServerProcess, model: str, expected: int) -> None:
    """One or three channels first or last are an image's; if both ends could be, UINT8 has them last."""
    config = ask(odd_server, "ModelConfig", pb.ModelConfigRequest(name=model)).config
    assert config.input[0].format == expected


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)], ids=str)
def test_an_unknown_rank_takes_any_shape(odd_server: ServerProcess, shape: tuple[int, ...]) -> None:
    """Only the model can tell what fits."""
    outputs = infer(odd_server, infer_request("any-rank", x=np.ones(shape, np.float32)))
    assert outputs["y"].shape == shape


@pytest.mark.parametrize("shape", [(), (1,)], ids=str)
def test_a_scalar_comes_as_either(odd_server: ServerProcess, shape: tuple[int, ...]) -> None:
    """Clients that know no scalars send a vector of one."""
    assert infer(odd_server, infer_request("scalar", x=np.full(shape, 7, np.float32)))["y"].item() == 7


def test_empty_beside_other_inputs(odd_server: ServerProcess) -> None:
    """Whether it can do without one input's elements, the model decides; if not, that is the caller's error."""
    x, empty = np.ones((2, 3), np.float32), np.ones((2, 0), np.float32)
    assert np.array_equal(infer(odd_server, infer_request("appended", past=empty, x=x))["y"], x)
    with pytest.raises(grpc.RpcError) as caught:
        infer(odd_server, infer_request("needs-past", past=empty, x=x))
    code, words = refusal(caught.value)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert words.startswith("model 'needs-past' cannot run this request with an input that has no elements in a TopK")


def test_failures_are_told_and_logged(odd_server: ServerProcess) -> None:
    """The caller reads the first sentence without paths; the log has model, version, request id and node."""
    request = infer_request("halves", x=np.ones((1, 3), np.float32))
    request.id = "request-77"
    with pytest.raises(grpc.RpcError) as caught:
        infer(odd_server, request)
    code, words = refusal(caught.value)
    assert code == grpc.StatusCode.INTERNAL
    assert words == (
        "model 'halves' cannot run this request in a Reshape node: "
        "The input tensor cannot be reshaped to the requested shape. (request id request-77)"
    )
    event = odd_server.events.await_one("request failed", id="request-77")
    assert (event["model"], event["version"], event["node"]) == ("halves", "1", "Reshape in two")


def test_failures_can_be_hidden(odd_models_dir: Path, transport: str) -> None:
    """With --hide-model-errors, callers hear that the model failed, and the log why."""
    with ServerProcess(odd_models_dir, "--models", "halves", "--hide-model-errors", transport=transport) as server:
        with pytest.raises(grpc.RpcError) as caught:
            infer(server, infer_request("halves", x=np.ones((1, 3), np.float32)))
        code, words = refusal(caught.value)
        assert code == grpc.StatusCode.INTERNAL
        hidden = r"model 'halves' cannot run this request: the server's log has the details \(request id [0-9a-f]+\)"
        assert re.fullmatch(hidden, words)
        told = server.events.await_one("request failed", model="halves")
        assert "cannot be reshaped" in told["error"]
