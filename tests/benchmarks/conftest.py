"""What the tests of the benchmarks share: one kind of request, and its right response."""

from pathlib import Path

import pytest

from benchmarks import calls
from benchmarks.request_payload import RequestPayload
from benchmarks.workload import Model, Workload, open_model
from tests.servers import ServerProcess


@pytest.fixture(scope="session")
def model(models_dir: Path, data_dir: Path) -> Model:
    """The smallest bundled model."""
    return open_model(models_dir, "mnist-tiny", data_dir, providers="cpu", threads=1)


@pytest.fixture(scope="session")
def payload(model: Model, server: ServerProcess) -> RequestPayload:
    """One image a request, checked against the server."""
    return calls.infer(server.address, Workload(model, 1))
