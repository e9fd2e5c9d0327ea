"""`top`: rates of a real server between two readings, from either source."""

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.client.conftest import command, environment, run
from tests.client.test_command_line import on_a_terminal
from tests.metrics import MeteredServer
from tests.servers import ROOT
from tests.wire import TIMEOUT_S, infer_request, model_infer

MODEL = "mnist-tiny"
IMAGE = infer_request(MODEL, images=np.zeros((4, 28, 28, 1), np.uint8))
UNKNOWN = infer_request("nothing", images=np.zeros((1, 28, 28, 1), np.uint8))


@pytest.fixture(scope="module")
def busy(models_dir: Path) -> Iterator[MeteredServer]:
    """A server under a little load: four rows a request, and now and then a model that it has not."""
    with MeteredServer(models_dir, "--models", MODEL) as server, under_load(server):
        yield server


@contextmanager
def under_load(server: MeteredServer) -> Iterator[None]:
    """Requests one after another, as long as the context lasts."""
    stopped = threading.Event()

    def ask() -> None:
        with server.channel() as channel:
            call = model_infer(channel)
            while not stopped.is_set():
                call(IMAGE, timeout=TIMEOUT_S)
                with pytest.raises(grpc.RpcError):
                    call(UNKNOWN, timeout=TIMEOUT_S)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def once(server: MeteredServer, *options: str) -> dict[str, Any]:
    """One interval, as JSON."""
    done = run("top", "--once", "--json", "--interval-s", "0.5", "--address", server.address, *options)
    assert (done.returncode, done.stderr) == (0, "")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_statistics_give_rates(busy: MeteredServer) -> None:
    """Without a metrics port: requests, images, batch and latencies; what is not told is null."""
    document = once(busy)
    (model,) = document["models"]
    assert (model["name"], model["version"]) == (MODEL, "1")
    assert model["requests_per_s"] > 0
    assert model["images_per_s"] == pytest.approx(4 * model["requests_per_s"])
    assert model["batch_rows"] == 4
    assert 0 < model["queue_ms"] < model["mean_ms"]
    assert [model[name] for name in ("p50_ms", "p99_ms", "queued_rows")] == [None, None, None]
    assert document["refusals_per_s"] == {}


def test_metrics_give_more(busy: MeteredServer) -> None:
    """With /metrics: percentiles, the queue, refusals, and errors without a model."""
    document = once(busy, "--metrics", f"127.0.0.1:{busy.metrics_port}")
    models = {model["name"]: model for model in document["models"]}
    assert models[MODEL]["images_per_s"] == pytest.approx(4 * models[MODEL]["requests_per_s"])
    assert 0 < models[MODEL]["p50_ms"] <= models[MODEL]["p99_ms"]
    assert models[MODEL]["queued_rows"] is not None
    assert models[""]["errors_per_s"] > 0
    assert document["refusals_per_s"]["unknown_model"] == pytest.approx(models[""]["errors_per_s"])
    assert document["gauges"]["ready"] == 1
    assert document["gauges"]["connections"] >= 1


def test_table_has_each_model(busy: MeteredServer) -> None:
    """Off a terminal, --once writes plain columns; on one, a table."""
    options = ("top", "--once", "--interval-s", "0.2", "--address", busy.address)
    heads, line = run(*options).stdout.splitlines()
    assert heads.split()[:4] == ["model", "version", "requests/s", "images/s"]
    assert line.split()[:2] == [MODEL, "1"]
    assert MODEL in on_a_terminal(*options, columns=140)


def test_readings_go_on_until_interrupted(busy: MeteredServer) -> None:
    """Without --once, JSON comes a line for each interval."""
    arguments = command("top", "--json", "--interval-s", "0.1", "--address", busy.address)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, cwd=ROOT, env=environment(), text=True) as process:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.terminate()
    assert [line["models"][0]["name"] for line in lines] == [MODEL] * 3


def test_absent_sources_are_told(busy: MeteredServer, nobody: str) -> None:
    """An address where nothing listens, or something else does, is a sentence."""
    done = run("top", "--once", "--address", nobody)
    assert (done.returncode, done.stdout) == (1, "")
    assert nobody in done.stderr
    done = run("top", "--once", "--metrics", nobody)
    assert done.returncode == 1
    assert "--metrics-port" in done.stderr
    done = run("top", "--once", "--metrics", busy.address)
    assert done.returncode == 1
    assert "no metrics of this server" in done.stderr
