"""Traces for OpenTelemetry: three spans of each call that its caller sampled, made after the answer.

The server's span is a child of the caller's (https://www.w3.org/TR/trace-context/); those of the queue and of the run
are its children, with the batcher's own times. They are made in a thread of their own. The extra ``otel`` has what is
imported here.
"""

import re
import threading
import time
from dataclasses import dataclass
from queue import Full, Queue
from types import TracebackType
from typing import Self

import structlog
from grpc import StatusCode as GrpcCode
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    set_span_in_context,
)

from .. import __version__
from ..rpc import Call
from .call_end import CallEnd

MAX_WAITING = 4096
"""Ends of calls whose spans are still to be made; more are dropped, and counted."""
DELAY_MS = 1000
"""How long spans may wait for others, to be sent with them."""
TIMEOUT_S = 2.0
"""How long the collector may take."""
TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
SAMPLED = 1
SERVER_ERRORS = ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
"""The status codes that make a server's span an error, by OpenTelemetry's conventions for gRPC."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _SampledCall:
    """What the spans of a call tell; not the call itself, whose message may be long. Times are since the epoch."""

    path: str
    parent: SpanContext
    code: str
    began_ns: int
    ended_ns: int
    attributes: dict[str, str | int]
    parts: dict[str, tuple[int, int]]

    @classmethod
    def of(cls, end: CallEnd, parent: SpanContext) -> "_SampledCall":
        """What is to be told of a call."""
        call, request = end.call, end.call.request
        epoch_ns = time.time_ns() - time.monotonic_ns()
        attributes: dict[str, str | int] = {"convserve.request_id": call.request_id()}
        if call.model is not None:
            attributes |= {"convserve.model": call.model.name, "convserve.version": call.model.version}
        if request is not None:
            attributes["convserve.rows"] = request.rows
        parts = {}
        if request is not None and end.times_ns is not None:
            began_ns, joined_ns, ran_ns, _ = end.times_ns
            attributes["convserve.batch_rows"] = end.batch_rows
            parts["queue"] = epoch_ns + request.arrived_ns, epoch_ns + began_ns
            parts["run"] = epoch_ns + joined_ns, epoch_ns + ran_ns
        return cls(call.path, parent, end.code, epoch_ns + end.began_ns, epoch_ns + end.ended_ns, attributes, parts)


class Traces:
    """Makes spans and sends them to a collector. A context manager: leaving it sends what is left."""

    def __init__(self, endpoint: str, service_name: str) -> None:
        """``endpoint``: where OTLP over gRPC is spoken; with https:// over TLS."""
        self.dropped = 0
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": service_name, "service.version": __version__}),
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(endpoint, insecure=not endpoint.startswith("https://"), timeout=TIMEOUT_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=DELAY_MS))
        self._calls: Queue[_SampledCall | None] = Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)

    def __enter__(self) -> Self:
        """Begins to send."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Sends what is left."""
        self._calls.put(None)
        self._thread.join()
        self._provider.shutdown()

    @staticmethod
    def is_sampled(call: Call) -> bool:
        """True where the caller records a trace."""
        return _parent(call.metadata("traceparent")) is not None

    def observe(self, end: CallEnd) -> None:
        """Has the spans of a call made."""
        parent = _parent(end.call.metadata("traceparent"))
        if parent is None:
            return
        try:
            self._calls.put_nowait(_SampledCall.of(end, parent))
        except Full:
            self.dropped += 1
            log.warning("spans dropped", dropped_in_all=self.dropped, peer=True)

    def _run(self) -> None:
        tracer = self._provider.get_tracer("convserve", __version__)
        while (call := self._calls.get()) is not None:
            try:
                _make_spans(tracer, call)
            except Exception:
                log.exception("spans cannot be made")


def _parent(traceparent: str | None) -> SpanContext | None:
    """The caller's span, where it is sampled."""
    found = TRACEPARENT.fullmatch(traceparent or "")
    if found is None or not int(found[3], 16) & SAMPLED:
        return None
    context = SpanContext(int(found[1], 16), int(found[2], 16), is_remote=True, trace_flags=TraceFlags(SAMPLED))
    return context if context.is_valid else None


def _make_spans(tracer: Tracer, call: _SampledCall) -> None:
    service, _, method = call.path.lstrip("/").partition("/")
    server = tracer.start_span(
        f"{service}/{method}",
        set_span_in_context(NonRecordingSpan(call.parent), Context()),
        SpanKind.SERVER,
        start_time=call.began_ns,
        attributes={
            "rpc.system": "grpc",
            "rpc.service": service,
            "rpc.method": method,
            "rpc.grpc.status_code": GrpcCode[call.code].value[0],
            **call.attributes,
        },
    )
    inside = set_span_in_context(server, Context())
    for name, (began_ns, ended_ns) in call.parts.items():
        tracer.start_span(name, inside, start_time=began_ns).end(ended_ns)
    if call.code in SERVER_ERRORS:
        server.set_status(Status(StatusCode.ERROR, call.code))
    server.end(call.ended_ns)
