"""``/metrics`` over HTTP, in a thread of its own. prometheus-client is imported here alone, and only then."""

import http.server
import math
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from ..access.token_store import TokenStore
from ..errors import PermissionDenied, ServiceError, StartError
from .catalog import METRICS, TRITON_METRICS, Metric
from .snapshot import Snapshot

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

TIMEOUT_S = 10.0
"""How long a client may take to send its request or to take the answer."""
PATH = "/metrics"

log = structlog.get_logger(__name__)


class Exporter:
    """Tells what its source reads; before there is a source, that the server is not ready."""

    def __init__(self) -> None:
        self.source = _not_ready

    @contextmanager
    def reading(self, source: Callable[[], Snapshot]) -> Iterator[None]:
        """Tells what this source reads, as long as the context lasts."""
        self.source = source
        try:
            yield
        finally:
            self.source = _not_ready

    def describe(self) -> list["Family"]:
        """Nothing: the registry would collect, only to know the names."""
        return []

    def collect(self) -> Iterator["Family"]:
        """All metrics that have values, as prometheus-client writes them."""
        snapshot = self.source()
        for metric in METRICS + TRITON_METRICS:
            family = _family(metric)
            for (name, labels), value in snapshot.values.items():
                if name == metric.name:
                    family.add_sample(name, dict(zip(metric.labels, labels, strict=True)), value)
            for (name, labels), counts in snapshot.histograms.items():
                if name == metric.name:
                    _add_histogram(family, metric, dict(zip(metric.labels, labels, strict=True)), counts)
            if family.samples:
                yield family


def _not_ready() -> Snapshot:
    return Snapshot({("convserve_ready", ()): 0})


@contextmanager
def exporting(host: str, port: int, tokens_file: Path | None = None) -> Iterator[Exporter]:
    """Listens, and answers until left; raises StartError where the address cannot be had.

    With a tokens file, /metrics needs a token with the right ``metrics``.
    """
    exporter = Exporter()
    with ExitStack() as stack:
        tokens = None if tokens_file is None else stack.enter_context(TokenStore(tokens_file))
        stack.enter_context(_listening(host, port, exporter, tokens))
        yield exporter


@contextmanager
def _listening(host: str, port: int, exporter: Exporter, tokens: TokenStore | None) -> Iterator[None]:
    try:
        server = _Server(host.strip("[]"), port, exporter, tokens)
    except OSError as error:
        raise StartError(
            f"cannot listen on {host}:{port} for metrics: {error.strerror or error}. Choose another --metrics-port"
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    log.info("metrics", address=f"http://{host}:{port}{PATH}")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(http.server.ThreadingHTTPServer):
    """Listens on any family of addresses; each client has a thread."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, exporter: Exporter, tokens: TokenStore | None) -> None:
        self.address_family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        self._exporter = exporter
        self._tokens = tokens
        super().__init__((str(address[0]), port), http.server.BaseHTTPRequestHandler)

    def server_bind(self) -> None:
        """Binds, without the look-up of the host's name that the standard library's server makes."""
        if self.address_family == socket.AF_INET6 and self.server_address[0] == "::":
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Imports what writes the answers, which takes 0.1 s and is not waited for by the start."""
        from prometheus_client import CollectorRegistry, MetricsHandler

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self._exporter)
        base: Any = MetricsHandler.factory(registry)
        tokens = self._tokens

        class Handler(base):  # type: ignore[misc]  # made at run time
            timeout = TIMEOUT_S

            def do_GET(self) -> None:  # noqa: N802 - the standard library's name
                if self.path.partition("?")[0] != PATH:
                    self.send_error(404, f"Metrics are at {PATH}")
                    return
                try:
                    if tokens is not None:
                        tokens.require("metrics", self.headers.get("authorization"), PATH)
                except ServiceError as error:
                    self.send_error(403 if isinstance(error, PermissionDenied) else 401, explain=str(error))
                    return
                super().do_GET()

        self.RequestHandlerClass = Handler
        super().serve_forever(poll_interval)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the standard library's
        """Logs what went wrong; a client that goes away is no fault."""
        log.debug("metrics were not sent", exc_info=True)


def _family(metric: Metric) -> "Family":
    from prometheus_client.core import Metric as Family

    kind = "unknown" if metric.kind == "untyped" else metric.kind
    name = metric.name.removesuffix("_total") if kind == "counter" else metric.name
    return Family(name, metric.meaning, kind)


def _add_histogram(family: "Family", metric: Metric, labels: dict[str, str], counts: list[float]) -> None:
    *buckets, total = counts
    cumulative = list(accumulate(buckets))
    for bound, count in zip((*metric.bounds, math.inf), cumulative, strict=True):
        family.add_sample(f"{metric.name}_bucket", {**labels, "le": "+Inf" if bound == math.inf else str(bound)}, count)
    family.add_sample(f"{metric.name}_count", labels, cumulative[-1])
    family.add_sample(f"{metric.name}_sum", labels, total)
