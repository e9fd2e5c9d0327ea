"""Traces, as a real collector of OTLP gets them from a real server."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from service.pb import open_inference_pb2 as pb
from tests.servers import ServerProcess, run_until_exit
from tests.test_imports import modules_after
from tests.wire import TIMEOUT_S, infer_request, model_infer

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{CALLER}-01", f"00-{TRACE}-{CALLER}-00"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the spans that it is sent."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[Any] = []
        self._changed = threading.Condition()

    def Export(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802 - the protocol's
        with self._changed:
            for sent in request.resource_spans:
                self.resources.append(sent.resource)
                self.spans += [span for scope in sent.scope_spans for span in scope.spans]
            self._changed.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def await_spans(self, count: int) -> list[Any]:
        """Wait until there are so many."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.spans) >= count, TIMEOUT_S)
            return list(self.spans)


@pytest.fixture
def collector() -> Iterator[tuple[Collector, str]]:
    """A collector, and its address."""
    collector = Collector()
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server  # it has no types
        add(collector, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield collector, f"http://127.0.0.1:{port}"
        server.stop(0).wait()


@pytest.fixture
def traced(collector: tuple[Collector, str], odd_models_dir: Path, transport: str) -> Iterator[ServerProcess]:
    """A server that sends traces there."""
    options = ("--models", "identity-fp32,halves", "--otlp-endpoint", collector[1])
    with ServerProcess(odd_models_dir, *options, transport=transport) as server:
        yield server


def send(server: ServerProcess, traceparent: str | None, request: pb.ModelInferRequest) -> None:
    metadata = () if traceparent is None else (("traceparent", traceparent),)
    with server.channel() as channel:
        model_infer(channel)(request, timeout=TIMEOUT_S, metadata=metadata)


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def test_sampled_calls_have_three_spans(traced: ServerProcess, collector: tuple[Collector, str]) -> None:
    """The server's span is the caller's child; queue and run are its children, one after the other within it."""
    request = infer_request("identity-fp32", x=np.ones((3, 2), np.float32))
    for traceparent in (None, NOT_SAMPLED, "nonsense", f"00-{TRACE}-{'0' * 16}-01", SAMPLED):
        send(traced, traceparent, request)
    spans = {span.name: span for span in collector[0].await_spans(3)}
    assert sorted(spans) == ["inference.GRPCInferenceService/ModelInfer", "queue", "run"]
    server, queue, run = spans["inference.GRPCInferenceService/ModelInfer"], spans["queue"], spans["run"]
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    assert server.parent_span_id.hex() == CALLER
    assert queue.parent_span_id == run.parent_span_id == server.span_id
    times = [server.start_time_unix_nano, queue.start_time_unix_nano, queue.end_time_unix_nano]
    times += [run.start_time_unix_nano, run.end_time_unix_nano, server.end_time_unix_nano]
    assert times == sorted(times)
    expected = {"rpc.system": "grpc", "rpc.method": "ModelInfer", "convserve.model": "identity-fp32"}
    assert attributes(server).items() >= {**expected, "convserve.rows": 3, "rpc.grpc.status_code": 0}.items()
    assert {each.key: each.value.string_value for each in collector[0].resources[0].attributes}["service.name"]


def test_failures_are_spans_too(traced: ServerProcess, collector: tuple[Collector, str]) -> None:
    """A call that fails has the server's span, with the status code, marked as an error."""
    with pytest.raises(grpc.RpcError):
        send(traced, SAMPLED, infer_request("halves", x=np.ones((1, 3), np.float32)))
    (span,) = collector[0].await_spans(1)
    assert attributes(span)["rpc.grpc.status_code"] == grpc.StatusCode.INTERNAL.value[0]
    assert span.status.code == span.status.STATUS_CODE_ERROR


def test_the_end_sends_what_is_left(traced: ServerProcess, collector: tuple[Collector, str]) -> None:
    """Spans that wait when the server is told to stop are sent."""
    send(traced, SAMPLED, infer_request("identity-fp32", x=np.ones((1, 2), np.float32)))
    assert traced.terminate() == 0
    assert len(collector[0].spans) == 3


def test_absent_collector_harms_no_call(odd_models_dir: Path, transport: str) -> None:
    """Without a collector at the address, calls are answered, and the server ends as ever."""
    options = ("--models", "identity-fp32", "--otlp-endpoint", "http://127.0.0.1:9")
    with ServerProcess(odd_models_dir, *options, transport=transport) as server:
        send(server, SAMPLED, infer_request("identity-fp32", x=np.ones((1, 2), np.float32)))
        assert server.terminate() == 0


def test_missing_extra_stops_the_start(odd_models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where OpenTelemetry is not installed, the option says what to install."""
    absent = tmp_path / "opentelemetry"
    absent.mkdir()
    (absent / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'opentelemetry'\")")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    exit_code, said = run_until_exit(
        odd_models_dir, "--models", "identity-fp32", "--otlp-endpoint", "http://127.0.0.1:9"
    )
    assert exit_code == 1
    assert "--otlp-endpoint needs the extra 'otel'" in said


def test_opentelemetry_waits_for_its_option() -> None:
    """Nothing of OpenTelemetry is imported by a server that is not asked for traces."""
    assert not [name for name in modules_after("import service.server") if name.startswith("opentelemetry")]
