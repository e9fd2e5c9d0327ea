"""The metrics of several workers are one page, whose counters never go back."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from tests import onnx_models
from tests.metrics import MeteredServer, Page
from tests.service.process.test_supervisor import watched
from tests.wire import infer, infer_request

COUNT = 2
ANSWERED = {"model": "echo", "version": "1", "code": "OK"}


@pytest.fixture
def workers(tmp_path: Path, transport: str) -> Iterator[MeteredServer]:
    """Two workers, all ready."""
    onnx_models.identity(tmp_path, "echo", TensorProto.FLOAT)
    with MeteredServer(tmp_path, "--workers", str(COUNT), transport=transport) as server:
        server.events.await_one("all workers are ready")
        yield server


def pids(server: MeteredServer) -> set[int]:
    """The processes of the workers."""
    pid = server.process.pid
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def answered(page: Page) -> float:
    """Calls with a result."""
    return page.value("convserve_requests_total", **ANSWERED)


def ask(server: MeteredServer, count: int) -> Page:
    """Has so many requests answered, each on a connection of its own, and waits until all are reported."""
    before = answered(server.page())
    for _ in range(count):
        with server.channel([("grpc.use_local_subchannel_pool", 1)]) as channel:
            infer(server, infer_request("echo", x=np.zeros((1, 2), np.float32)), channel)
    return server.await_page(lambda page: answered(page) == before + count)


def went_back(before: Page, after: Page) -> list[str]:
    """The counters that are lower than they were."""
    return [name for (name, labels), value in before.counters().items() if after.get((name, labels), 0) < value]


def test_page_is_of_all_workers(workers: MeteredServer) -> None:
    """Counters and limits are sums; what both say alike is told once."""
    workers.await_page(lambda page: page.value("convserve_queue_limit_rows", model="echo", version="1") == COUNT * 4096)
    page = ask(workers, 20)
    assert page.value("convserve_batch_rows_sum", model="echo", version="1") == 20
    assert page.value("convserve_ready") == 1
    assert page.value("convserve_model_ready", model="echo", version="1") == 1
    assert page.value("convserve_workers", state="wanted") == COUNT
    assert page.value("convserve_workers", state="ready") == COUNT
    assert page.value("convserve_worker_deaths_total") == 0


def test_killed_worker_leaves_its_counts(workers: MeteredServer) -> None:
    """After SIGKILL no counter is lower, and the death is one more."""
    before = ask(workers, 20)
    since = len(workers.events)
    os.kill(min(pids(workers)), signal.SIGKILL)
    workers.events.await_one("worker died", since=since)
    page = workers.page()
    assert answered(page) == 20
    assert went_back(before, page) == []
    assert page.value("convserve_worker_deaths_total") == 1
    page = workers.await_page(lambda page: page.value("convserve_workers", state="ready") == COUNT)
    assert went_back(before, page) == []
    assert went_back(page, ask(workers, 5)) == []


def test_renewed_workers_leave_their_counts(workers: MeteredServer) -> None:
    """What workers counted up to their very end is there after SIGHUP; none died."""
    before = ask(workers, 20)
    old, since = pids(workers), len(workers.events)
    for _ in range(7):
        infer(workers, infer_request("echo", x=np.zeros((1, 2), np.float32)))
    with watched(old) as gone:
        workers.process.send_signal(signal.SIGHUP)
        workers.events.await_one("the workers are renewed", since=since)
        gone()
    page = workers.await_page(lambda page: page.value("convserve_workers", state="ready") == COUNT)
    assert answered(page) == 27
    assert went_back(before, page) == []
    assert page.value("convserve_worker_deaths_total") == 0
    assert went_back(page, ask(workers, 5)) == []
