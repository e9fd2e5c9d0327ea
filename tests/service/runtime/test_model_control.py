"""Models that change while they are served: reloads, versions, loading and unloading, on both transports."""

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.pb import image_classifier_pb2 as ic
from service.pb import open_inference_pb2 as pb
from tests import onnx_models
from tests.servers import ServerProcess, run_until_exit
from tests.wire import TIMEOUT_S, arrays, ask, change, infer, infer_request, model_infer, refusal, send_bytes, states

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
ROW = np.zeros((1, 2), np.float32)
SWAPS = int(os.environ.get("CONVSERVE_SWAPS", "5"))
"""More in `make swaps`."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model that answers with the number of its version, which is 1, beside one that stays."""
    onnx_models.save_identity(tmp_path / "models", "m", 1, 1.0)
    onnx_models.save_identity(tmp_path / "models", "stays", 1)
    return tmp_path / "models"


@pytest.fixture
def server(folder: Path) -> Iterator[ServerProcess]:
    """A single process, where the transport makes no difference."""
    with ServerProcess(folder) as process:
        yield process


def asked(server: ServerProcess, version: str = "", model: str = "m") -> float:
    """The number that a version answers with."""
    return float(infer(server, infer_request(model, version, x=ROW))["y"][0, 0])


def put(folder: Path, version: int, answer: float) -> None:
    """Puts a version in place with one rename, as it should be."""
    path = onnx_models.save_identity(folder.parent / "drafts", "m", version, answer)
    (folder / "m" / str(version)).mkdir(exist_ok=True)
    path.replace(folder / "m" / str(version) / "model.onnx")


def reloaded(server: ServerProcess, event: str = "the models are renewed") -> dict[str, object]:
    """SIGHUP, and what came of it."""
    since = len(server.events)
    server.process.send_signal(signal.SIGHUP)
    return server.events.await_one(event, since=since)


def test_sighup_reads_the_folder(server: ServerProcess, folder: Path) -> None:
    """A single process serves new models, new versions and changed files after SIGHUP; statistics never go back."""
    put(folder, 2, 2.0)
    onnx_models.save_identity(folder, "new", 1, 7.0)
    reloaded(server)
    assert (asked(server), asked(server, "1"), asked(server, model="new")) == (2.0, 1.0, 7.0)
    put(folder, 2, 2.5)
    reloaded(server)
    assert asked(server) == 2.5
    (told,) = ask(server, "ModelStatistics", pb.ModelStatisticsRequest(name="m", version="2")).model_stats
    assert (told.inference_count, told.inference_stats.success.count) == (2, 2)
    shutil.rmtree(folder / "m" / "2")
    reloaded(server)
    assert asked(server) == 1.0
    assert ("m", "2") not in states(server)


def test_bad_versions_leave_the_old(server: ServerProcess, folder: Path) -> None:
    """A new version that cannot be served is UNAVAILABLE, a damaged file leaves what was served; both are told."""
    (folder / "m" / "2").mkdir()
    (folder / "m" / "2" / "model.onnx").write_bytes(b"no model")
    (folder / "m" / "1" / "model.onnx").write_bytes(b"no model")
    reloaded(server)
    assert asked(server) == 1.0
    known = states(server)
    assert known["m", "2"][0] == "UNAVAILABLE"
    assert known["m", "1"][0] == "READY"
    assert "a newer file is not served: it is no ONNX file" in known["m", "1"][1]


def test_lost_models_refuse_reloads(server: ServerProcess, folder: Path) -> None:
    """A reload that would lose a model is refused as a whole, and index and log tell why."""
    (folder / "m").rename(folder.parent / "away")
    onnx_models.save_identity(folder, "new", 1)
    refused = reloaded(server, "the models are not renewed, and go on serving")
    assert "'m' would be lost: it is not in" in str(refused["reason"])
    assert asked(server) == 1.0
    assert "the last reload was refused" in states(server)["m", "1"][1]
    assert ("new", "1") not in states(server)
    (folder.parent / "away").rename(folder / "m")
    reloaded(server)
    assert states(server)["m", "1"] == ("READY", "")


def test_lossy_reloads_lose_models(transport: str, folder: Path) -> None:
    """With --reload-lossy a model that has gone is served no longer, and its health watch tells."""
    with ServerProcess(folder, "--reload-lossy", transport=transport) as server, server.channel() as channel:
        request = health_pb2.HealthCheckRequest(service="model/m")
        watch = health_pb2_grpc.HealthStub(channel).Watch(request, timeout=TIMEOUT_S)
        assert next(watch).status == SERVING
        shutil.rmtree(folder / "m")
        reloaded(server)
        assert next(watch).status == NOT_SERVING
        with pytest.raises(grpc.RpcError) as caught:
            asked(server)
        assert refusal(caught.value)[0] == grpc.StatusCode.NOT_FOUND


def test_polled_folders_are_followed(folder: Path) -> None:
    """With --model-control poll a new version is served without a signal."""
    with ServerProcess(folder, "--model-control", "poll", "--model-poll-s", "0.1") as server:
        put(folder, 2, 2.0)
        server.events.await_one("the models are renewed", models={"m": ["1", "2"], "stays": ["1"]})
        assert asked(server) == 2.0


def test_callers_load_and_unload(transport: str, folder: Path) -> None:
    """With --model-control explicit, callers decide what is served; what is answered is in effect."""
    with ServerProcess(folder, "--model-control", "explicit", transport=transport) as server:
        assert states(server) == dict.fromkeys([("m", "1"), ("stays", "1")], ("UNAVAILABLE", "unloaded"))
        change(server, "Load", "m")
        assert asked(server) == 1.0
        put(folder, 2, 2.0)
        change(server, "Load", "m")
        assert asked(server) == 2.0
        change(server, "Unload", "m")
        with pytest.raises(grpc.RpcError) as caught:
            asked(server)
        assert refusal(caught.value)[0] == grpc.StatusCode.UNAVAILABLE


def test_unreadable_folders_are_told(folder: Path) -> None:
    """A caller whose load meets a folder that cannot be read is told so, without its path."""
    with ServerProcess(folder, "--model-control", "explicit", "--models", "m") as server:
        folder.rename(folder.parent / "away")
        with pytest.raises(grpc.RpcError) as caught:
            change(server, "Load", "stays")
        (folder.parent / "away").rename(folder)
        code, words = refusal(caught.value)
        assert (code, "cannot be read" in words) == (grpc.StatusCode.FAILED_PRECONDITION, True)
        assert str(folder.parent) not in words
        assert asked(server) == 1.0


def test_failed_loads_are_answered(folder: Path) -> None:
    """A load that fails answers why, and what was served goes on; there is none without --model-control explicit."""
    with ServerProcess(folder, "--model-control", "explicit", "--models", "m") as server:
        (folder / "m" / "2").mkdir()
        (folder / "m" / "2" / "model.onnx").write_bytes(b"")
        wrong = {
            "m": (grpc.StatusCode.FAILED_PRECONDITION, "failed to load 'm', version 2: it is empty"),
            "nix": (grpc.StatusCode.NOT_FOUND, "failed to load 'nix', no version is available"),
            "": (grpc.StatusCode.INVALID_ARGUMENT, "the request names no model"),
        }
        for name, (code, words) in wrong.items():
            with pytest.raises(grpc.RpcError) as caught:
                change(server, "Load", name)
            assert refusal(caught.value)[0] == code
            assert words in refusal(caught.value)[1]
        assert asked(server) == 1.0
    with ServerProcess(folder) as server:
        with pytest.raises(grpc.RpcError) as caught:
            change(server, "Unload", "m")
        assert refusal(caught.value)[0] == grpc.StatusCode.UNIMPLEMENTED
        assert "--model-control none" in refusal(caught.value)[1]


def test_version_policies_choose(folder: Path) -> None:
    """The latest, or those that are named; if one of the latest cannot be served, the next lower one is."""
    for version in (2, 3):
        put(folder, version, float(version))
    (folder / "m" / "4").mkdir()
    (folder / "m" / "4" / "model.onnx").write_bytes(b"no model")

    def served(policy: str) -> set[str]:
        with ServerProcess(folder, "--version-policy", policy, "--models", "m") as server:
            return {version for (name, version), (state, _) in states(server).items() if state == "READY"}

    assert served("latest:2") == {"2", "3"}
    assert served("latest:1;m=1,2") == {"1", "2"}
    code, stderr = run_until_exit(folder, "--version-policy", "newest")
    assert (code, "'newest' is neither all, latest:N nor numbers of versions" in stderr) == (2, True)


def test_default_versions_are_pinned(folder: Path) -> None:
    """Where no version is asked for, the pinned one answers; a reload that would lose it is refused."""
    put(folder, 2, 2.0)
    with ServerProcess(folder, "--default-version", "m=1") as server:
        assert (asked(server), asked(server, "2")) == (1.0, 2.0)
        shutil.rmtree(folder / "m" / "1")
        refused = reloaded(server, "the models are not renewed, and go on serving")
        assert "its default version 1 is not there any more" in str(refused["reason"])
        assert asked(server) == 1.0
    code, stderr = run_until_exit(folder, "--default-version", "m=1")
    assert (code, "--default-version pins version 1 of 'm'" in stderr) == (1, True)


def test_classifiers_forget_the_old(transport: str, tmp_path: Path) -> None:
    """Classify answers with labels of the new file, though it had remembered the old one."""
    onnx_models.classifier(tmp_path, "linear")
    image = ic.Image(pixels=ic.Pixels(height=8, width=8, channels=1, data=bytes(64)))
    request = ic.ClassifyRequest(model_name="linear", images=[image], top_k=10).SerializeToString()

    def labels(server: ServerProcess) -> set[str]:
        answer = send_bytes(server, "/convserve.v1.ImageClassifier/Classify", request)
        return {each.label for each in ic.ClassifyResponse.FromString(answer).results[0].classification.classes}

    with ServerProcess(tmp_path, transport=transport) as server:
        assert labels(server) == labels(server) == {f"class {number}" for number in range(10)}
        renamed = [f"kind {number}" for number in range(10)]
        path = onnx_models.classifier(tmp_path / "draft", "linear", labels=renamed)
        path.replace(tmp_path / "linear" / "1" / "model.onnx")
        reloaded(server)
        assert labels(server) == set(renamed)


class Load:
    """Callers that ask without a pause, and check each answer."""

    def __init__(self, server: ServerProcess) -> None:
        self.answers: list[float] = []
        self.failures: list[Exception] = []
        self._server = server
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(3)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        with self._server.channel([("grpc.use_local_subchannel_pool", 1)]) as channel:
            call = model_infer(channel)
            while not self._done.is_set():
                calls = [call.future(infer_request("m", x=ROW), timeout=TIMEOUT_S) for _ in range(8)]
                for one in calls:
                    try:
                        self.answers.append(float(arrays(one.result())["y"][0, 0]))
                    except grpc.RpcError as error:
                        self.failures.append(error)


def resources(server: ServerProcess) -> tuple[int, int]:
    """Resident MiB and threads of all processes of the server."""
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    lines = [line for each in (pid, *children) for line in Path(f"/proc/{each}/status").read_text().splitlines()]
    resident = sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    return resident // 1024, sum(int(line.split()[1]) for line in lines if line.startswith("Threads"))


@pytest.mark.parametrize("count", ["0", "2"], ids=["alone", "workers"])
def test_swaps_lose_no_request(transport: str, folder: Path, count: str) -> None:
    """Versions come, change and go under load: no request fails, and none gets the answer of what never was there.

    Memory and threads do not grow with the swaps.
    """
    options = ("--model-control", "explicit", "--models", "m", "--workers", count)
    with ServerProcess(folder, *options, transport=transport) as server:
        if count != "0":
            server.events.await_one("all workers are ready")
        with Load(server) as load:
            for swap in range(SWAPS):
                put(folder, 2 + swap, 2.0 + swap)
                if swap:
                    shutil.rmtree(folder / "m" / str(1 + swap))
                change(server, "Load", "m")
                if swap == 0:
                    before = resources(server)
        after = resources(server)
        assert load.failures == []
        assert set(load.answers) <= {1.0 + number for number in range(SWAPS + 1)}
        assert asked(server) == 1.0 + SWAPS
        print(f"{transport}, {count} workers: {len(load.answers)} answers, {SWAPS} swaps, {before} to {after}")  # noqa: T201 - with -s
        assert after[0] <= before[0] + 64
        assert after[1] <= before[1] + 16
