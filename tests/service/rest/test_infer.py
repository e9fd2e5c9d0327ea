"""Inference over HTTP: tensors in JSON and as bytes, and what is refused."""

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from tests.servers import ServerProcess
from tests.service.rest.requests import error, in_binary, in_json, outputs, tensor
from tests.wire import infer, infer_request, refusal

ONES = np.ones((2, 2), np.float32)
FP32 = "/v2/models/identity-fp32/infer"

VALUES = {
    "bool": np.array([[True, False]]),
    "uint8": np.array([[0, 255]], np.uint8),
    "uint16": np.array([[0, 65535]], np.uint16),
    "uint32": np.array([[0, 2**32 - 1]], np.uint32),
    "uint64": np.array([[0, 2**64 - 1]], np.uint64),
    "int8": np.array([[-128, 127]], np.int8),
    "int16": np.array([[-(2**15), 2**15 - 1]], np.int16),
    "int32": np.array([[-(2**31), 2**31 - 1]], np.int32),
    "int64": np.array([[-(2**63), 2**63 - 1]], np.int64),
    "fp16": np.array([[0.5, -65504]], np.float16),
    "fp32": np.array([[0.1, -3e38]], np.float32),
    "fp64": np.array([[0.1, -1e308]], np.float64),
}


@pytest.mark.parametrize("kind", VALUES)
def test_elements_keep_their_values(odd_client: httpx.Client, kind: str) -> None:
    """Each datatype's extremes come back as they went, in JSON and as bytes."""
    array, path = VALUES[kind], f"/v2/models/identity-{kind}/infer"
    assert outputs(odd_client.post(path, json=in_json(array)))["y"] == array.reshape(-1).tolist()
    body, headers = in_binary(array)
    echoed = outputs(odd_client.post(path, content=body, headers=headers))["y"]
    assert echoed.dtype == array.dtype
    assert np.array_equal(echoed, array)


def test_texts_keep_their_characters(odd_client: httpx.Client) -> None:
    """BYTES are texts in JSON, and length-prefixed as bytes."""
    texts = np.array([["räpid", ""]], object)
    path = "/v2/models/identity-bytes/infer"
    assert outputs(odd_client.post(path, json=in_json(texts)))["y"] == ["räpid", ""]
    encoded = np.array([["räpid".encode(), b""]], object)
    body, headers = in_binary(encoded, outputs=[{"name": "y"}])
    assert outputs(odd_client.post(path, content=body, headers=headers))["y"] == ["räpid", ""]


def test_nested_lists_are_read(odd_client: httpx.Client) -> None:
    """Elements may be nested as the shape says."""
    request = {"inputs": [tensor("x", ONES, data=[[1, 2.5], [3, 4]])]}
    assert outputs(odd_client.post(FP32, json=request))["y"] == [1, 2.5, 3, 4]


def test_forms_can_be_mixed(odd_client: httpx.Client) -> None:
    """Of two inputs one may be bytes, and of two outputs."""
    left, right = np.ones((1, 16), np.float32), np.full((1, 16), 3, np.float32)
    text = json.dumps(
        {
            "inputs": [
                tensor("right", right, parameters={"binary_data_size": 64}),
                tensor("left", left, data=left.reshape(-1).tolist()),
            ],
            "outputs": [{"name": "difference", "parameters": {"binary_data": True}}, {"name": "total"}],
        }
    ).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    found = outputs(odd_client.post("/v2/models/sum/infer", content=text + right.tobytes(), headers=headers))
    assert found["total"] == [4.0] * 16
    assert np.array_equal(found["difference"], left - right)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compression_both_ways(odd_client: httpx.Client, encoding: str) -> None:
    """Bodies may be compressed, and responses of some length are where the client takes it."""
    array = np.zeros((64, 2), np.float32)
    body, headers = in_binary(np.tile(array, (1, 1)))
    compressed = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
    headers |= {"Content-Encoding": encoding, "Accept-Encoding": encoding}
    response = odd_client.post(FP32, content=compressed, headers=headers)
    assert response.headers.get("content-encoding") is None  # it is short
    assert np.array_equal(outputs(response)["y"], array)
    response = odd_client.post(
        FP32, json=in_json(np.full((64, 2), 1 / 3, np.float32)), headers={"Accept-Encoding": encoding}
    )
    assert response.headers["content-encoding"] == encoding
    assert outputs(response)["y"] == [float(np.float32(1 / 3))] * 128


def test_chunked_bodies_are_read(odd_client: httpx.Client) -> None:
    """A body may come in chunks, whose number and places mean nothing."""
    body, headers = in_binary(ONES)
    chunks = (body[at : at + 7] for at in range(0, len(body), 7))
    assert np.array_equal(outputs(odd_client.post(FP32, content=chunks, headers=headers))["y"], ONES)


def test_ids_and_versions_come_back(odd_client: httpx.Client) -> None:
    """A response has the id of its request, the version that answered, and the caller's X-Request-Id."""
    response = odd_client.post(FP32, json=in_json(ONES, id="a7"), headers={"X-Request-Id": "b8"})
    document = response.json()
    assert (document["id"], document["model_name"], document["model_version"]) == ("a7", "identity-fp32", "1")
    assert response.headers["x-request-id"] == "b8"
    image = np.zeros((1, 8, 8, 1), np.uint8)
    request = {"inputs": [tensor("images", image, data=image.reshape(-1).tolist())]}
    assert odd_client.post("/v2/models/linear/versions/1/infer", json=request).json()["model_version"] == "1"


def test_classes_can_be_asked_for(odd_client: httpx.Client) -> None:
    """The classification extension gives value, index and label."""
    image = np.zeros((1, 8, 8, 1), np.uint8)
    request = {
        "inputs": [tensor("images", image, data=image.reshape(-1).tolist())],
        "outputs": [{"name": "probabilities", "parameters": {"classification": 2}}],
    }
    found = outputs(odd_client.post("/v2/models/linear/infer", json=request))["probabilities"]
    assert len(found) == 2
    assert found[0].split(":")[1] == "0"


def test_both_protocols_share_runs(odd_models_dir: Path) -> None:
    """Rows that came over HTTP and over gRPC are run together: neither alone would be run for ten seconds."""
    limits = ("--max-batch-rows", "64", "--max-queue-rows", "80", "--max-queue-delay-us", "10000000")
    with ServerProcess(odd_models_dir, "--models", "identity-fp32", *limits, "--http-port", "0") as server:
        half = np.ones((32, 2), np.float32)
        body, headers = in_binary(half)
        with server.channel() as channel, httpx.Client(base_url=server.url) as client:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", None, None)
            pending = call.future(infer_request("identity-fp32", x=half).SerializeToString(), timeout=9)
            response = client.post(FP32, content=body, headers=headers, timeout=9)
            assert pending.result()
            assert np.array_equal(outputs(response)["y"], half)
            (counted,) = client.get("/v2/models/identity-fp32/stats").json()["model_stats"]
            assert (counted["execution_count"], counted["inference_count"]) == (1, 64)


def wrong(**changes: Any) -> dict[str, Any]:
    """A request whose input differs from a right one in these fields; None leaves one out."""
    entry = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]} | changes
    return {"inputs": [{name: value for name, value in entry.items() if value is not None}]}


REFUSED: dict[str, tuple[Any, str]] = {
    "no JSON": (b"{", "the request is no JSON"),
    "no object": ([1], "the request is a list: a JSON object is expected"),
    "no UTF-8": (b'{"id": "\xff"}', "the request is no JSON"),
    "deeply nested": (b"[" * 100_000, "the request is no JSON"),
    "half a character": (b'{"id": "\\ud800", "inputs": []}', "a text that is no Unicode"),
    "unknown field": ({"inputs": [], "input": []}, 'the request has the unknown field "input"'),
    "unknown field of an input": (wrong(dtype="FP32"), "input 'x' has the unknown field \"dtype\""),
    "inputs are no list": ({"inputs": {}}, "inputs of the request is an object"),
    "no inputs": ({}, "expected 1 inputs but got 0 inputs"),
    "bool in a shape": (wrong(shape=[True, 2]), "shape of input 'x' is [true, 2]"),
    "float in a shape": (wrong(shape=[1.0, 2]), "shape of input 'x' is [1.0, 2]"),
    "negative shape": (wrong(shape=[-1, 2]), "shape of input 'x' is [-1, 2]"),
    "shape of texts": (wrong(shape=["1", "2"]), "a list of whole numbers from 0 on is expected"),
    "endless shape": (wrong(shape=[2**63, 2]), "a list of whole numbers from 0 on is expected"),
    "too few elements": (wrong(data=[1]), "input 'x' has 1 elements in data, and 2 by its shape [1, 2]"),
    "too many elements": (wrong(data=[1, 2, 3]), "input 'x' has 3 elements in data, and 2 by its shape [1, 2]"),
    "wrongly nested": (wrong(data=[[1], [2]]), "data of input 'x' is not nested as its shape [1, 2] says"),
    "partly nested": (wrong(shape=[2, 1], data=[[1], 2]), "is not nested as its shape [2, 1] says"),
    "NaN": (b'{"inputs": [{"data": [NaN, 1]}]}', "NaN is no number of JSON"),
    "infinite": (b'{"inputs": [{"name":"x","shape":[1,2],"datatype":"FP32","data":[1e999,1]}]}', "outside of FP32"),
    "beyond FP32": (wrong(data=[1e39, 0]), "input 'x' has elements outside of FP32"),
    "bool among numbers": (wrong(data=[True, 1]), "input 'x' is FP32, and has the element true"),
    "text among numbers": (wrong(data=["1", 1]), "input 'x' is FP32, and has the element \"1\""),
    "null among numbers": (wrong(data=[None, 1]), "input 'x' is FP32, and has the element null"),
    "no data": (wrong(data=None), "input 'x' has neither data nor binary_data_size"),
    "data is no list": (wrong(data=1), "data of input 'x' is a number: a list is expected"),
    "unknown datatype": (wrong(datatype="FLOAT"), "input 'x' is of datatype \"FLOAT\""),
    "other datatype": (wrong(datatype="FP64"), "inference input 'x' data-type is 'FP64'"),
    "unknown input": (wrong(name="z"), "unexpected inference input 'z'"),
    "other shape": (wrong(shape=[1, 3], data=[1, 2, 3]), "unexpected shape for input 'x'"),
    "too many rows": (wrong(shape=[65, 2], data=[0] * 130), "batch-size must be <= 64"),
    "bytes that are not there": (
        wrong(data=None, parameters={"binary_data_size": 8}),
        "input 'x' has binary_data_size 8, but 0 bytes are left of the body",
    ),
    "negative size": (wrong(data=None, parameters={"binary_data_size": -8}), "binary_data_size of input 'x' is -8"),
    "data twice": (wrong(parameters={"binary_data_size": 8}), "has both data and binary_data_size"),
    "shared memory": (wrong(data=None, parameters={"shared_memory_region": "r"}), "is in shared memory"),
    "unknown output": (wrong() | {"outputs": [{"name": "z"}]}, "unexpected inference output 'z'"),
    "flag that is none": (wrong() | {"parameters": {"binary_data_output": 1}}, "binary_data_output is 1"),
    "object as parameter": (wrong() | {"parameters": {"timeout": {}}}, 'parameter "timeout" is {}'),
    "sequence": (wrong() | {"parameters": {"sequence_id": 3}}, "parameter 'sequence_id' is not supported"),
    "timeout that is none": (wrong() | {"parameters": {"timeout": "soon"}}, "must be a whole number"),
    "id that is no text": (wrong() | {"id": 7}, "id of the request is a number: a text is expected"),
}


@pytest.mark.parametrize(("request_json", "words"), REFUSED.values(), ids=list(REFUSED))
def test_wrong_requests_are_refused(odd_client: httpx.Client, request_json: Any, words: str) -> None:
    """What can never be answered is 400, and a sentence that says what is wrong."""
    content = request_json if isinstance(request_json, bytes) else json.dumps(request_json).encode()
    status, sentence = error(odd_client.post(FP32, content=content))
    assert status == 400
    assert words in sentence


@pytest.mark.parametrize(
    ("length", "words"),
    [("-1", "is '-1'"), ("1e3", "is '1e3'"), ("99999", "up to the length of the body"), ("5", "is no JSON")],
)
def test_wrong_header_lengths_are_refused(odd_client: httpx.Client, length: str, words: str) -> None:
    """Inference-Header-Content-Length must be where the JSON ends."""
    body, _ = in_binary(ONES)
    response = odd_client.post(FP32, content=body, headers={"Inference-Header-Content-Length": length})
    assert error(response)[0] == 400
    assert words in error(response)[1]


def test_bytes_left_over_are_refused(odd_client: httpx.Client) -> None:
    """Bytes that belong to no input are an error, and those that are too few for a shape."""
    body, headers = in_binary(ONES)
    response = odd_client.post(FP32, content=body + b"\0", headers=headers)
    assert error(response) == (400, "the body has 1 bytes more than its inputs' binary_data_size say")
    short = body.replace(b'"binary_data_size": 16', b'"binary_data_size": 12')[:-4]
    status, sentence = error(odd_client.post(FP32, content=short, headers=headers))
    assert (status, sentence.partition(" for")[0]) == (400, "input byte size mismatch")


def test_sentences_are_those_of_grpc(odd_client: httpx.Client, odd_rest_server: ServerProcess) -> None:
    """What the engine refuses, it refuses in the same words."""
    array = np.ones((65, 2), np.float32)
    with pytest.raises(grpc.RpcError) as refused:
        infer(odd_rest_server, infer_request("identity-fp32", x=array))
    body, headers = in_binary(array)
    assert error(odd_client.post(FP32, content=body, headers=headers)) == (400, refusal(refused.value)[1])


def test_failing_models_are_told(odd_client: httpx.Client) -> None:
    """A request at which a model fails is 500, has the id that the log knows it by, and does not harm the next."""
    path = "/v2/models/halves/infer"
    status, sentence = error(odd_client.post(path, json=in_json(np.ones((1, 3), np.float32))))
    assert (status, sentence.partition(":")[0]) == (500, "model 'halves' cannot run this request in a Reshape node")
    assert "(request id " in sentence
    assert outputs(odd_client.post(path, json=in_json(np.ones((1, 4), np.float32))))["y"] == [1.0] * 4


def test_nan_needs_binary_outputs(odd_client: httpx.Client) -> None:
    """JSON has no NaN: an output with one is refused in JSON, and comes as bytes."""
    array = np.array([[np.nan, 1]], np.float32)
    body, headers = in_binary(array, outputs=[{"name": "y"}])
    status, sentence = error(odd_client.post(FP32, content=body, headers=headers))
    assert (status, "ask for binary data" in sentence) == (400, True)
    body, headers = in_binary(array)
    assert np.isnan(outputs(odd_client.post(FP32, content=body, headers=headers))["y"][0, 0])
