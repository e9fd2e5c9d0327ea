"""Calls from Python check a response, so that what is measured afterwards has been right at least once."""

import io
import time

import grpc
import numpy as np
from PIL import Image

from benchmarks.errors import BenchmarkError
from benchmarks.request_payload import CLASSIFY, MODEL_INFER, RequestPayload
from benchmarks.samples import Figures, latencies
from benchmarks.workload import Workload
from service.pb import image_classifier_pb2 as ic
from service.pb import open_inference_pb2 as pb

TIMEOUT_S = 60.0


def infer(address: str, workload: Workload) -> RequestPayload:
    """Calls ModelInfer; raises BenchmarkError unless the response is that of a direct run."""
    response = _call(address, MODEL_INFER, workload.request)
    workload.check(response)
    return RequestPayload(MODEL_INFER, workload.request, len(response))


def classify(address: str, workload: Workload, *, encoded: bool) -> RequestPayload:
    """Calls Classify, with pixels or PNG files; raises BenchmarkError unless it names what a direct run does."""
    message = ic.ClassifyRequest(model_name=workload.model.name)
    for image, file in zip(workload.images, png_files(workload), strict=True):
        height, width, channels = image.shape
        if encoded:
            message.images.add(encoded=file)
        else:
            pixels = ic.Pixels(data=image.tobytes(), height=height, width=width, channels=channels)
            message.images.add(pixels=pixels)
    with_logits = ic.ClassifyRequest()
    with_logits.CopyFrom(message)
    with_logits.include_logits = True
    results = ic.ClassifyResponse.FromString(_call(address, CLASSIFY, with_logits.SerializeToString())).results
    failed = [result.error.message for result in results if result.HasField("error")]
    if failed:
        raise BenchmarkError(f"the server could not classify an image of the test set: {failed[0]}")
    workload.check_output("logits", np.array([result.classification.logits for result in results], np.float32))
    request = message.SerializeToString()
    response = _call(address, CLASSIFY, request)
    named = [result.classification.classes[0].index for result in ic.ClassifyResponse.FromString(response).results]
    expected = workload.outputs["logits"].argmax(1).tolist()
    if named != expected:
        raise BenchmarkError(f"the server names the classes {named}; a direct run of the same file gives {expected}")
    return RequestPayload(CLASSIFY, request, len(response))


def png_files(workload: Workload) -> list[bytes]:
    """The images of the workload as PNG, which loses nothing."""
    files = []
    for image in workload.images:
        file = io.BytesIO()
        Image.fromarray(image.squeeze()).save(file, "PNG")
        files.append(file.getvalue())
    return files


def lone(address: str, payload: RequestPayload, seconds: float) -> Figures:
    """Microseconds from request to response as grpcio's blocking client in Python sees them."""
    durations: list[float] = []
    with grpc.insecure_channel(address) as channel:
        method = _method(channel, payload.path)
        method(payload.request, timeout=TIMEOUT_S)  # connects
        ends = time.perf_counter() + seconds
        while not durations or time.perf_counter() < ends:
            started = time.perf_counter_ns()
            method(payload.request, timeout=TIMEOUT_S)
            durations.append((time.perf_counter_ns() - started) / 1e3)
    return latencies(durations)


def statistics(address: str, model: str) -> pb.ModelStatistics:
    """What the server has counted of the one version of this model."""
    request = pb.ModelStatisticsRequest(name=model).SerializeToString()
    response = _call(address, "/inference.GRPCInferenceService/ModelStatistics", request)
    (found,) = pb.ModelStatisticsResponse.FromString(response).model_stats
    return found


def success_count(address: str, model: str) -> int:
    """The requests that the server counts as successful for this model, since its start."""
    return statistics(address, model).inference_stats.success.count


def _call(address: str, path: str, request: bytes) -> bytes:
    try:
        with grpc.insecure_channel(address, [("grpc.max_receive_message_length", -1)]) as channel:
            return _method(channel, path)(request, timeout=TIMEOUT_S)
    except grpc.RpcError as error:
        raise BenchmarkError(f"{address} refused {path}: {error.code().name}: {error.details()}") from error


def _method(channel: grpc.Channel, path: str) -> "grpc.UnaryUnaryMultiCallable[bytes, bytes]":
    """The method on serialised messages: what protobuf costs this process is not the server's."""
    return channel.unary_unary(path, request_serializer=None, response_deserializer=None)
