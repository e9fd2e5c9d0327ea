"""Servers that tell their metrics."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.metrics import MeteredServer


@pytest.fixture(scope="session")
def metered(transport: str, odd_models_dir: Path) -> Iterator[MeteredServer]:
    """The odd models, by Triton's names too, with small limits: 64 rows a batch, 1 MiB a message."""
    limits = ("--max-batch-rows", "64", "--max-queue-rows", "256", "--max-message-mib", "1")
    with MeteredServer(odd_models_dir, "--metrics-triton-names", *limits, transport=transport) as server:
        yield server


@pytest.fixture(scope="session")
def patient(transport: str, odd_models_dir: Path) -> Iterator[MeteredServer]:
    """One model, whose requests wait for company until 64 rows are there; 80 may wait."""
    limits = ("--max-batch-rows", "64", "--max-queue-rows", "80", "--max-queue-delay-us", "60000000")
    with MeteredServer(odd_models_dir, "--models", "laborious", *limits, transport=transport) as server:
        yield server
