"""Reading a server's /metrics, as Prometheus does."""

import socket
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

from tests.servers import START_S, ServerProcess

POLL_S = 0.05


class Page(dict[tuple[str, frozenset[tuple[str, str]]], float]):
    """The samples by name and labels."""

    def value(self, name: str, **labels: str) -> float:
        """The sample with just these labels; 0 where there is none."""
        return self.get((name, frozenset(labels.items())), 0.0)

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples with these labels, whatever their others are."""
        return sum(value for (other, found), value in self.items() if other == name and found >= set(labels.items()))

    def counters(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """The samples that must never go back."""
        ends = ("_total", "_bucket", "_sum", "_count")
        return {key: value for key, value in self.items() if key[0].endswith(ends)}


class MeteredServer(ServerProcess):
    """A server that tells its metrics on a free port."""

    def __init__(self, models_dir: Path, *options: str, transport: str = "native") -> None:
        self.metrics_port = free_port()
        super().__init__(models_dir, "--metrics-port", str(self.metrics_port), *options, transport=transport)

    def __enter__(self) -> Self:
        """Wait until it tells that it is ready."""
        super().__enter__()
        self.await_page(lambda page: page.value("convserve_ready"))
        return self

    def text(self) -> str:
        """The page now."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=START_S) as answer:
            return str(answer.read().decode())

    def page(self) -> Page:
        """The samples of the page now."""
        return Page(
            ((sample.name, frozenset(sample.labels.items())), sample.value)
            for family in text_string_to_metric_families(self.text())
            for sample in family.samples
        )

    def await_page(self, condition: Callable[[Page], object]) -> Page:
        """The first page for which this holds."""
        ends = time.monotonic() + START_S
        while not condition(page := self.page()):
            assert time.monotonic() < ends, f"the metrics do not become what they should: {page}"
            time.sleep(POLL_S)
        return page


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
