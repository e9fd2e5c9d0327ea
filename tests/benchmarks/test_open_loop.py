"""The open loop counts what happened: every request, its end, and its latency from when it was to be sent."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import calls, open_loop
from benchmarks.errors import BenchmarkError
from benchmarks.open_loop import OK, RESOURCE_EXHAUSTED
from benchmarks.request_payload import CLASSIFY, MODEL_INFER, RequestPayload
from benchmarks.workload import Model, Workload
from service.pb import open_inference_pb2 as pb
from tests.servers import ServerProcess

NOW = np.zeros(1, np.int64)
INVALID_ARGUMENT, NOT_FOUND, UNIMPLEMENTED = 3, 5, 12


def test_arrivals_are_poisson() -> None:
    """So many on average, in order, their gaps independent and exponential: the deviation is the mean."""
    due = open_loop.poisson(5_000, 20, seed=7)
    assert abs(len(due) - 100_000) < 5 * 100_000**0.5
    assert (np.diff(due) >= 0).all()
    assert due[-1] < 20e9
    gaps = np.diff(due)
    assert 0.98 < gaps.std() / gaps.mean() < 1.02
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 0.02


def test_server_counts_the_same(server: ServerProcess, payload: RequestPayload) -> None:
    """Every request gets its response, and the server counts as many."""
    due = open_loop.poisson(500, 0.5, seed=1)
    before = calls.success_count(server.address, "mnist-tiny")
    outcome = open_loop.run(server.address, payload, due)
    assert outcome.count(OK) == len(due) == calls.success_count(server.address, "mnist-tiny") - before
    assert (outcome.sent >= outcome.due).all()
    assert (outcome.done > outcome.sent).all()
    seconds = 1 + outcome.done.max() / 1e9
    assert outcome.goodput(0, seconds) == pytest.approx(len(due) / seconds)
    assert outcome.goodput(0, seconds, outcome.answer_us.min() / 1e6) < len(due) / seconds


def test_latency_counts_from_the_arrival(server: ServerProcess, payload: RequestPayload) -> None:
    """A request that was to be sent a second before it could be has waited for a second."""
    outcome = open_loop.run(server.address, payload, np.full(20, -(10**9)))
    assert outcome.count(OK) == 20
    assert outcome.lag_us.min() >= 1e6
    assert (outcome.latency_us > outcome.lag_us).all()


def test_requests_wait_for_free_streams(model: Model, models_dir: Path) -> None:
    """What a connection does not carry is sent later: the native transport allows 1,024 streams on one."""
    with ServerProcess(models_dir, "--models", "mnist-tiny", "--max-queue-ms", "60000") as server:
        payload = calls.infer(server.address, Workload(model, 1))
        outcome = open_loop.run(server.address, payload, np.zeros(3_000, np.int64), connections=1)
    assert outcome.count(OK) == 3_000
    assert (outcome.sent == outcome.sent[0]).sum() < 3_000


def test_large_requests_take_several_frames(server: ServerProcess, model: Model) -> None:
    """256 images take 200 kB: more than a frame, and many of them more than a connection takes at once."""
    payload = calls.infer(server.address, Workload(model, 256))
    assert open_loop.run(server.address, payload, np.zeros(12, np.int64), connections=2).count(OK) == 12


def test_full_queue_is_resource_exhausted(model: Model, models_dir: Path) -> None:
    """Five rows wait three seconds for others, eight may wait: every other request of five is refused."""
    limits = ("--max-batch-rows", "8", "--max-queue-rows", "8", "--max-queue-delay-us", "3000000")
    with ServerProcess(models_dir, "--models", "mnist-tiny", *limits) as server:
        workload = Workload(model, 5)
        payload = RequestPayload(MODEL_INFER, workload.request, len(workload.response))
        outcome = open_loop.run(server.address, payload, np.zeros(40, np.int64))
        assert calls.success_count(server.address, "mnist-tiny") == 1
    assert (outcome.count(OK), outcome.count(RESOURCE_EXHAUSTED)) == (1, 39)
    accepted, refused = (outcome.latency_us[outcome.status == status] for status in (OK, RESOURCE_EXHAUSTED))
    assert accepted.min() >= 3e6
    assert refused.max() < accepted.min()


@pytest.mark.parametrize(
    ("path", "request_bytes", "status"),
    [
        (MODEL_INFER, b"\xff", INVALID_ARGUMENT),
        (CLASSIFY, b"", NOT_FOUND),
        (MODEL_INFER, pb.ModelInferRequest(model_name="none").SerializeToString(), NOT_FOUND),
        ("/inference.GRPCInferenceService/Nothing", b"", UNIMPLEMENTED),
    ],
    ids=["INVALID_ARGUMENT", "no model named", "NOT_FOUND", "UNIMPLEMENTED"],
)
def test_statuses_are_read(server: ServerProcess, path: str, request_bytes: bytes, status: int) -> None:
    """Of one digit and of two, however the server codes them."""
    outcome = open_loop.run(server.address, RequestPayload(path, request_bytes, 0), NOW, connections=1)
    assert outcome.status.tolist() == [status]


def test_response_of_another_length(server: ServerProcess, payload: RequestPayload) -> None:
    """A response of another length than the right one ends the benchmark."""
    longer = RequestPayload(payload.path, payload.request, payload.response_bytes + 1)
    with pytest.raises(BenchmarkError, match="another length than the right one"):
        open_loop.run(server.address, longer, NOW)


def test_missing_server(payload: RequestPayload) -> None:
    """An address on which nothing listens is named in one sentence."""
    with pytest.raises(BenchmarkError, match=r"nothing listens on 127\.0\.0\.1:1"):
        open_loop.run("127.0.0.1:1", payload, NOW)
