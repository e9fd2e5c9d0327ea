"""A client that knows nothing but reflection, as grpcurl does, finds the services and calls them."""

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.servers import ServerProcess
from tests.wire import TIMEOUT_S


def call_by_json(channel: grpc.Channel, service: str, method: str, request: str) -> dict[str, object]:
    """What ``grpcurl -d REQUEST ADDRESS SERVICE/METHOD`` does."""
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    found = pool.FindServiceByName(service).FindMethodByName(method)
    call = channel.unary_unary(
        f"/{service}/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(found.output_type).FromString,
    )
    answer = call(json_format.Parse(request, GetMessageClass(found.input_type)()), timeout=TIMEOUT_S)
    document: dict[str, object] = json_format.MessageToDict(answer)
    return document


def test_services_are_listed(server: ServerProcess) -> None:
    with server.channel() as channel:
        services = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert services >= {
        "inference.GRPCInferenceService",
        "convserve.v1.ImageClassifier",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


def test_services_are_called_by_reflection(server: ServerProcess) -> None:
    """Both services can be called from what reflection tells."""
    with server.channel() as channel:
        ready = call_by_json(channel, "inference.GRPCInferenceService", "ModelReady", '{"name": "mnist-tiny"}')
        assert ready == {"ready": True}
        listed = call_by_json(channel, "convserve.v1.ImageClassifier", "ListModels", "{}")
        assert isinstance(listed["models"], list)
        assert "mnist-tiny" in [model["name"] for model in listed["models"]]
