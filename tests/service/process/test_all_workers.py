"""Whichever worker a connection reaches, statistics and index are those of all workers."""

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from service.pb import open_inference_pb2 as pb
from tests import onnx_models
from tests.service.process.test_supervisor import OWN_CONNECTION, Load, Workers, make_models, native_only, watched
from tests.wire import TIMEOUT_S, ask, infer, infer_request, refusal, states

COUNT = 3
ROW = np.zeros((1, 16), np.float32)
UNHURRIED_S = 10
"""In which a worker starts, also on a machine that others use."""


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that echo."""
    return make_models(tmp_path_factory.mktemp("all") / "models")


@pytest.fixture(scope="module")
def workers(transport: str, models_dir: Path) -> Iterator[Workers]:
    """Three workers, which tell of each request who had it."""
    with Workers(models_dir, "--access-log", transport=transport, count=COUNT) as process:
        yield process
        assert process.terminate() == 0


@contextlib.contextmanager
def connections(workers: Workers, count: int) -> Iterator[list[grpc.Channel]]:
    """So many connections, each of its own."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(workers.channel(OWN_CONNECTION)) for _ in range(count)]


def counted(workers: Workers, channel: grpc.Channel) -> int:
    """The requests that were answered, which each had one row and a run of its own."""
    (told,) = ask(workers, "ModelStatistics", pb.ModelStatisticsRequest(name="counted"), channel).model_stats
    count = told.inference_stats.success.count
    assert told.inference_count == told.execution_count == told.inference_stats.queue.count == count
    assert sum(entry.compute_infer.count for entry in told.batch_stats) == count
    return int(count)


def worker_of(workers: Workers, channel: grpc.Channel) -> int:
    """The number of the worker that this connection reached."""
    since = len(workers.events)
    infer(workers, infer_request("echo", x=ROW), channel)
    return int(workers.events.await_one("access", since=since, model="echo")["worker"])


def pid_of(workers: Workers, number: int) -> int:
    """The process of a worker, by the slot that it was started for."""
    for pid in workers.pids():
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            name, _, value = entry.partition(b"=")
            if name == b"CONVSERVE_WORKER_SLOT" and json.loads(value)["number"] == number:
                return pid
    raise AssertionError(f"there is no worker {number}")


def test_statistics_are_of_all_workers(workers: Workers) -> None:
    """They say n on each connection, after killed and renewed workers too, and are never less."""
    with connections(workers, 24) as channels:
        before = counted(workers, channels[0])
        since = len(workers.events)
        for channel in channels:
            infer(workers, infer_request("counted", x=ROW), channel)
        n = before + len(channels)
        assert {counted(workers, channel) for channel in channels} == {n}
        served = [event for event in workers.events[since:] if event.get("model") == "counted"]
        assert len({event["worker"] for event in served}) > 1
    since = len(workers.events)
    victim = min(workers.pids())
    with watched({victim}) as gone:
        os.kill(victim, signal.SIGKILL)
        gone()
    with connections(workers, 1) as channels:
        assert counted(workers, channels[0]) == n
    workers.events.await_one("ready", since=since)
    workers.renewed()
    with connections(workers, 6) as channels:
        assert {counted(workers, channel) for channel in channels} == {n}


def test_stopped_workers_delay_no_answer(workers: Workers) -> None:
    """A worker that stands still counts by its last report; a stopped supervisor leaves what was told last."""
    with connections(workers, 12) as channels:
        numbers = [worker_of(workers, channel) for channel in channels]
        n = counted(workers, channels[0])
        stopped = pid_of(workers, numbers[0])
        channel = next(channel for channel, number in zip(channels, numbers, strict=True) if number != numbers[0])
        for pid in (stopped, workers.process.pid):
            os.kill(pid, signal.SIGSTOP)
            try:
                assert counted(workers, channel) == n
                assert states(workers, channel)["echo", "1"][0] == "READY"
            finally:
                os.kill(pid, signal.SIGCONT)


def test_versions_are_loading_until_all_serve(transport: str, tmp_path: Path) -> None:
    """While one worker has not opened a new model, the index of the others tells of it as LOADING."""
    options = ("--model-control", "explicit", "--models", "echo", "--access-log")
    folder = make_models(tmp_path / "models")
    with (
        Workers(folder, *options, transport=transport, count=2) as workers,
        connections(workers, 12) as channels,
    ):
        numbers = [worker_of(workers, channel) for channel in channels]
        stopped = pid_of(workers, numbers[0])
        channel = next(channel for channel, number in zip(channels, numbers, strict=True) if number != numbers[0])
        os.kill(stopped, signal.SIGSTOP)
        try:
            load = channel.unary_unary(
                "/inference.GRPCInferenceService/RepositoryModelLoad",
                request_serializer=pb.RepositoryModelLoadRequest.SerializeToString,
                response_deserializer=pb.RepositoryModelLoadResponse.FromString,
            ).future(pb.RepositoryModelLoadRequest(model_name="counted"), timeout=TIMEOUT_S)
            while (state := states(workers, channel)["counted", "1"][0]) == "UNAVAILABLE":
                assert not load.done()
            assert state == "LOADING"
            workers.events.await_one("model ready", model="counted")
            assert states(workers, channel)["counted", "1"][0] == "LOADING"
            assert not load.done()
        finally:
            os.kill(stopped, signal.SIGCONT)
        load.result()
        assert {states(workers, channel)["counted", "1"][0] for channel in channels} == {"READY"}


@native_only
def test_hanging_loads_are_refused(transport: str, tmp_path: Path) -> None:
    """A version whose load never ends is refused after a while; the workers that hang are replaced, and all serve."""
    folder = make_models(tmp_path / "models")
    options = ("--model-control", "explicit", "--models", "echo", "--model-load-timeout-s", str(UNHURRIED_S))
    with Workers(folder, *options, transport=transport) as workers:
        before = workers.pids()
        onnx_models.endless(tmp_path / "slow", "echo")
        (tmp_path / "slow" / "echo" / "1").rename(folder / "echo" / "2")
        with Load(workers) as load, watched(before) as gone:
            with pytest.raises(grpc.RpcError) as caught, workers.channel() as channel:
                ask(workers, "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="echo"), channel)
            gone()
        assert refusal(caught.value)[0] == grpc.StatusCode.FAILED_PRECONDITION
        assert "has not opened the models within 10 s (--model-load-timeout-s)" in refusal(caught.value)[1]
        assert load.failures == []
        assert load.answers
        assert len(workers.pids() - before) == workers.count
        with connections(workers, 8) as channels:
            assert {states(workers, channel)["echo", "1"][0] for channel in channels} == {"READY"}
