"""Servers with an HTTP port, and a client of each."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.servers import Serve, ServerProcess

TIMEOUT_S = 60


@pytest.fixture(scope="session")
def rest_server(serve: Serve, models_dir: Path) -> ServerProcess:
    """Two bundled models, served over HTTP too."""
    return serve(models_dir, "--models", "mnist-tiny,cifar10-cnn", "--http-port", "0")


@pytest.fixture(scope="session")
def odd_rest_server(serve: Serve, odd_models_dir: Path) -> ServerProcess:
    """The odd models, with limits of 64 rows a batch and 1 MiB a message."""
    limits = ("--max-batch-rows", "64", "--max-queue-rows", "256", "--max-message-mib", "1")
    return serve(odd_models_dir, *limits, "--http-port", "0")


@pytest.fixture
def client(rest_server: ServerProcess) -> Iterator[httpx.Client]:
    """A client of the bundled models."""
    with httpx.Client(base_url=rest_server.url, timeout=TIMEOUT_S) as client:
        yield client


@pytest.fixture
def odd_client(odd_rest_server: ServerProcess) -> Iterator[httpx.Client]:
    """A client of the odd models."""
    with httpx.Client(base_url=odd_rest_server.url, timeout=TIMEOUT_S) as client:
        yield client
