"""Calls from Python: one raw ModelInfer after another, and our own client with several threads."""

import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np

from benchmarks.empty import MODEL_INFER
from benchmarks.errors import BenchmarkError
from benchmarks.samples import Figures, latencies
from benchmarks.workload import Workload
from service.client import Classification, Client, ClientError

CLIENT_THREADS = 8
"""Threads that share one Client, a call in flight each: more give no more, Python's lock is the limit."""
TIMEOUT_S = 60.0


def check(address: str, workload: Workload) -> None:
    """One call through each API; raises BenchmarkError unless both answer what a direct run gives."""
    try:
        with grpc.insecure_channel(address) as channel:
            workload.check(_model_infer(channel)(workload.request, timeout=TIMEOUT_S))
        with _client(address, workload) as client:
            results = client.classify(workload.pictures, model=workload.model.name, logits=True)
    except grpc.RpcError as error:
        raise BenchmarkError(f"the server refused the request: {error.code().name}: {error.details()}") from error
    except ClientError as error:
        raise BenchmarkError(f"the server refused our client's call: {error}") from error
    failed = [result for result in results if not isinstance(result, Classification)]
    if failed:
        raise BenchmarkError(f"the server could not classify a picture of the test set: {failed[0]}")
    logits = [result.logits for result in results if isinstance(result, Classification)]
    workload.check_output("logits", np.array(logits, np.float32))


def lone(address: str, workload: Workload, requests: int) -> Figures:
    """Microseconds from request to answer as grpcio's blocking client in Python sees them."""
    durations = []
    with grpc.insecure_channel(address) as channel:
        method = _model_infer(channel)
        method(workload.request, timeout=TIMEOUT_S)  # connects
        for _ in range(requests):
            started = time.perf_counter_ns()
            method(workload.request, timeout=TIMEOUT_S)
            durations.append((time.perf_counter_ns() - started) / 1e3)
    return latencies(durations)


def client_rate(address: str, workload: Workload, requests: int) -> Figures:
    """Calls per second that one Client reaches, through ImageClassifier.Classify with raw pixels."""
    share = -(-requests // CLIENT_THREADS)
    with _client(address, workload) as client, ThreadPoolExecutor(CLIENT_THREADS) as pool:
        client.list_models()  # connects

        def ask() -> None:
            for _ in range(share):
                client.classify(workload.pictures, model=workload.model.name)

        started = time.perf_counter()
        for worker in [pool.submit(ask) for _ in range(CLIENT_THREADS)]:
            worker.result()
        return {"requests_per_s": share * CLIENT_THREADS / (time.perf_counter() - started)}


def _model_infer(channel: grpc.Channel) -> "grpc.UnaryUnaryMultiCallable[bytes, bytes]":
    """The method on serialised messages: what protobuf costs is not the server's."""
    return channel.unary_unary(MODEL_INFER, request_serializer=None, response_deserializer=None)


def _client(address: str, workload: Workload) -> Client:
    """A client that sends the pictures of the workload in one call."""
    return Client(address, timeout_s=TIMEOUT_S, max_call_images=workload.images)
