"""Building protocol messages, and asking a server over a plain channel."""

import contextlib
import struct
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from service.pb import image_classifier_pb2 as ic
from service.pb import open_inference_pb2 as pb
from tests.servers import ServerProcess

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
TIMEOUT_S = 60
Array = NDArray[Any]


def infer_request(model: str, version: str = "", outputs: Sequence[str] = (), **inputs: Any) -> pb.ModelInferRequest:
    """A request with raw contents; object arrays become BYTES."""
    request = pb.ModelInferRequest(model_name=model, model_version=version)
    for name, array in inputs.items():
        datatype = "BYTES" if array.dtype == object else DATATYPES[array.dtype.name]
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(raw_bytes(array))
    for output in outputs:
        request.outputs.add(name=output)
    return request


def raw_bytes(array: Array) -> bytes:
    """An array's elements as raw contents."""
    if array.dtype == object:
        return b"".join(struct.pack("<I", len(item)) + item for item in array.reshape(-1))
    return array.tobytes()


def infer(
    server: ServerProcess, request: pb.ModelInferRequest, channel: grpc.Channel | None = None
) -> dict[str, Array]:
    """The outputs by name, over a channel of its own if none is given; raises grpc.RpcError."""
    with contextlib.nullcontext(channel) if channel is not None else server.channel() as used:
        return arrays(model_infer(used)(request, timeout=TIMEOUT_S))


def arrays(response: pb.ModelInferResponse) -> dict[str, Array]:
    """The numeric outputs of a response by name."""
    numpy = {name: dtype for dtype, name in DATATYPES.items()}
    return {
        output.name: np.frombuffer(raw, numpy[output.datatype]).reshape(tuple(output.shape))
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def send_bytes(server: ServerProcess, path: str, payload: bytes) -> bytes:
    """Any bytes to any method; raises grpc.RpcError."""
    with server.channel() as channel:
        call = channel.unary_unary(path, request_serializer=None, response_deserializer=None)
        answer: bytes = call(payload, timeout=TIMEOUT_S)
        return answer


def model_infer(channel: grpc.Channel) -> Any:
    """The callable of ModelInfer."""
    return channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelInferResponse.FromString,
    )


def ask(server: ServerProcess, method: str, request: Any, channel: grpc.Channel | None = None) -> Any:
    """Any other RPC of GRPCInferenceService, by its name, over a channel of its own if none is given."""
    with contextlib.nullcontext(channel) if channel is not None else server.channel() as used:
        call = used.unary_unary(
            f"/inference.GRPCInferenceService/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=getattr(pb, f"{method}Response").FromString,
        )
        return call(request, timeout=TIMEOUT_S)


def classify(server: ServerProcess, request: ic.ClassifyRequest) -> ic.ClassifyResponse:
    """ImageClassifier.Classify; raises grpc.RpcError."""
    with server.channel() as channel:
        call = channel.unary_unary(
            "/convserve.v1.ImageClassifier/Classify",
            request_serializer=ic.ClassifyRequest.SerializeToString,
            response_deserializer=ic.ClassifyResponse.FromString,
        )
        response: ic.ClassifyResponse = call(request, timeout=TIMEOUT_S)
        return response


def refusal(error: Any) -> tuple[grpc.StatusCode, str]:
    """Status code and message of a refused call."""
    return error.code(), error.details() or ""


def states(server: ServerProcess, channel: grpc.Channel | None = None) -> dict[tuple[str, str], tuple[str, str]]:
    """State and reason of each model's versions, as RepositoryIndex has them."""
    with contextlib.nullcontext(channel) if channel is not None else server.channel() as used:
        call = used.unary_unary(
            "/inference.GRPCInferenceService/RepositoryIndex",
            request_serializer=pb.RepositoryIndexRequest.SerializeToString,
            response_deserializer=pb.RepositoryIndexResponse.FromString,
        )
        models = call(pb.RepositoryIndexRequest(), timeout=TIMEOUT_S).models
    return {(model.name, model.version): (model.state, model.reason) for model in models}


def change(server: ServerProcess, what: str, model: str) -> None:
    """Has a model loaded (``Load``) or unloaded (``Unload``); raises grpc.RpcError."""
    request = getattr(pb, f"RepositoryModel{what}Request")(model_name=model)
    send_bytes(server, f"/inference.GRPCInferenceService/RepositoryModel{what}", request.SerializeToString())
