"""Calls from Python, whose answers are looked at: what is measured afterwards has been right at least once."""

import io
import time

import grpc
import numpy as np
from PIL import Image

from benchmarks.errors import BenchmarkError
from benchmarks.exchange import CLASSIFY, MODEL_INFER, Exchange
from benchmarks.samples import Figures, latencies
from benchmarks.workload import Workload
from service.pb import image_classifier_pb2 as ic
from service.pb import open_inference_pb2 as pb

TIMEOUT_S = 60.0


def infer(address: str, workload: Workload) -> Exchange:
    """Asks ModelInfer; raises BenchmarkError unless the answer is that of a direct run."""
    answer = _ask(address, MODEL_INFER, workload.request)
    workload.check(answer)
    return Exchange(MODEL_INFER, workload.request, len(answer))


def classify(address: str, workload: Workload, *, encoded: bool) -> Exchange:
    """Asks Classify, with pixels or PNG files; raises BenchmarkError unless it names what a direct run does."""
    message = ic.ClassifyRequest(model_name=workload.model.name)
    for picture, file in zip(workload.pictures, png_files(workload), strict=True):
        height, width, channels = picture.shape
        if encoded:
            message.images.add(encoded=file)
        else:
            pixels = ic.Pixels(data=picture.tobytes(), height=height, width=width, channels=channels)
            message.images.add(pixels=pixels)
    with_logits = ic.ClassifyRequest()
    with_logits.CopyFrom(message)
    with_logits.include_logits = True
    results = ic.ClassifyResponse.FromString(_ask(address, CLASSIFY, with_logits.SerializeToString())).results
    failed = [result.error.message for result in results if result.HasField("error")]
    if failed:
        raise BenchmarkError(f"the server could not classify a picture of the test set: {failed[0]}")
    workload.check_output("logits", np.array([result.classification.logits for result in results], np.float32))
    request = message.SerializeToString()
    answer = _ask(address, CLASSIFY, request)
    named = [result.classification.classes[0].index for result in ic.ClassifyResponse.FromString(answer).results]
    expected = workload.outputs["logits"].argmax(1).tolist()
    if named != expected:
        raise BenchmarkError(f"the server names the classes {named}; a direct run of the same file gives {expected}")
    return Exchange(CLASSIFY, request, len(answer))


def png_files(workload: Workload) -> list[bytes]:
    """The pictures of the workload as PNG, which loses nothing."""
    files = []
    for picture in workload.pictures:
        file = io.BytesIO()
        Image.fromarray(picture.squeeze()).save(file, "PNG")
        files.append(file.getvalue())
    return files


def lone(address: str, exchange: Exchange, seconds: float) -> Figures:
    """Microseconds from request to answer as grpcio's blocking client in Python sees them."""
    durations: list[float] = []
    with grpc.insecure_channel(address) as channel:
        method = _method(channel, exchange.path)
        method(exchange.request, timeout=TIMEOUT_S)  # connects
        ends = time.perf_counter() + seconds
        while not durations or time.perf_counter() < ends:
            started = time.perf_counter_ns()
            method(exchange.request, timeout=TIMEOUT_S)
            durations.append((time.perf_counter_ns() - started) / 1e3)
    return latencies(durations)


def answered(address: str, model: str) -> int:
    """How many requests the server says that it has answered from this model, in all its life."""
    request = pb.ModelStatisticsRequest(name=model).SerializeToString()
    answer = _ask(address, "/inference.GRPCInferenceService/ModelStatistics", request)
    return sum(each.inference_stats.success.count for each in pb.ModelStatisticsResponse.FromString(answer).model_stats)


def _ask(address: str, path: str, request: bytes) -> bytes:
    try:
        with grpc.insecure_channel(address, [("grpc.max_receive_message_length", -1)]) as channel:
            return _method(channel, path)(request, timeout=TIMEOUT_S)
    except grpc.RpcError as error:
        raise BenchmarkError(f"{address} refused {path}: {error.code().name}: {error.details()}") from error


def _method(channel: grpc.Channel, path: str) -> "grpc.UnaryUnaryMultiCallable[bytes, bytes]":
    """The method on serialised messages: what protobuf costs this process is not the server's."""
    return channel.unary_unary(path, request_serializer=None, response_deserializer=None)
