"""What is counted, by requests to real servers: each outcome once, under its model and its code."""

import contextlib
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from service.pb import image_classifier_pb2 as ic
from service.pb import open_inference_pb2 as pb
from tests.metrics import MeteredServer, Page
from tests.wire import TIMEOUT_S, ask, classify, infer, infer_request, model_infer, send_bytes

FP32 = {"model": "identity-fp32", "version": "1"}
LINEAR = {"model": "linear", "version": "3"}
IMAGES = np.random.default_rng(1).integers(0, 256, (40, 8, 8, 1), np.uint8)


class Moves(Page):
    """How far each counter has moved."""

    def by(self, name: str, label: str) -> dict[tuple[str, str, str], float]:
        """Those of one counter that have moved, by model, version and another label."""
        moved = [(dict(labels), count) for (other, labels), count in self.items() if other == name and count]
        return {(labels["model"], labels["version"], labels[label]): count for labels, count in moved}

    @property
    def calls(self) -> dict[tuple[str, str, str], float]:
        """Inference calls by model, version and code."""
        return self.by("convserve_requests_total", "code")

    @property
    def refusals(self) -> dict[tuple[str, str, str], float]:
        """Errors sent by model, version and reason."""
        return self.by("convserve_refusals_total", "reason")


@contextlib.contextmanager
def moves(server: MeteredServer) -> Iterator[Moves]:
    """The moves within the block, filled in at its end."""
    before, moved = server.page(), Moves()
    yield moved
    moved.update({key: value - before.get(key, 0) for key, value in server.page().items()})


def image(data: bytes, side: int = 8) -> ic.Image:
    """A grey image of raw pixels."""
    return ic.Image(pixels=ic.Pixels(data=data, height=side, width=side, channels=1))


@pytest.mark.parametrize(
    ("request_", "labels", "reason"),
    [
        pytest.param(
            infer_request("nothing", x=np.zeros((1, 2))), ("", "", "NOT_FOUND"), "unknown_model", id="unknown model"
        ),
        pytest.param(
            infer_request("broken", x=np.zeros((1, 2))), ("", "", "UNAVAILABLE"), "not_ready", id="rejected model"
        ),
        pytest.param(
            infer_request("identity-fp32", x=np.zeros((1, 2), np.int32)),
            ("identity-fp32", "1", "INVALID_ARGUMENT"),
            "invalid_request",
            id="wrong datatype",
        ),
        pytest.param(
            infer_request("identity-fp32", x=np.zeros((65, 2), np.float32)),
            ("identity-fp32", "1", "INVALID_ARGUMENT"),
            "invalid_request",
            id="too many rows",
        ),
        pytest.param(
            infer_request("laborious", index=np.array([99]), work=np.array([0])),
            ("laborious", "1", "INVALID_ARGUMENT"),
            "invalid_request",
            id="failed run",
        ),
    ],
)
def test_refused_inference_is_counted(
    metered: MeteredServer, request_: pb.ModelInferRequest, labels: tuple[str, str, str], reason: str
) -> None:
    """A refusal counts once by its code and once by its reason, without a model where none is known."""
    with moves(metered) as moved, pytest.raises(grpc.RpcError):
        infer(metered, request_)
    assert moved.calls == {labels: 1}
    assert moved.refusals == {(*labels[:2], reason): 1}


def test_bytes_without_meaning_are_counted(metered: MeteredServer) -> None:
    """What is no message at all is counted without a model."""
    with moves(metered) as moved, pytest.raises(grpc.RpcError):
        send_bytes(metered, "/inference.GRPCInferenceService/ModelInfer", b"\xff\xff")
    assert moved.calls == {("", "", "INVALID_ARGUMENT"): 1}
    assert moved.refusals == {("", "", "invalid_request"): 1}


def test_unknown_methods_are_counted(metered: MeteredServer) -> None:
    """A method that there is not is a refusal."""
    with moves(metered) as moved, pytest.raises(grpc.RpcError):
        send_bytes(metered, "/inference.GRPCInferenceService/Nothing", b"")
    assert moved.calls == {}
    assert moved.refusals == {("", "", "unsupported"): 1}


def test_refusals_of_other_methods_count(metered: MeteredServer) -> None:
    """An RPC that is no inference adds to the refusals, not to the requests."""
    with moves(metered) as moved, pytest.raises(grpc.RpcError):
        ask(metered, "ModelMetadata", pb.ModelMetadataRequest(name="nothing"))
    assert moved.calls == {}
    assert moved.refusals == {("", "", "unknown_model"): 1}
    with moves(metered) as moved, pytest.raises(grpc.RpcError):
        ask(metered, "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="linear"))
    assert moved.calls == {}
    assert moved.refusals == {("", "", "unsupported"): 1}


def test_answers_fill_every_histogram(metered: MeteredServer) -> None:
    """Requests, waits, runs and rows of a model are those that were answered; Triton's names agree."""
    with moves(metered) as moved, metered.channel() as channel:
        for rows in (1, 3, 5):
            infer(metered, infer_request("identity-fp32", x=np.zeros((rows, 2), np.float32)), channel)
    assert moved.calls == {("identity-fp32", "1", "OK"): 3}
    assert moved.refusals == {}
    for name in ("request_duration_seconds", "queue_duration_seconds", "run_duration_seconds", "batch_rows"):
        assert moved.value(f"convserve_{name}_count", **FP32) == 3
        assert moved.value(f"convserve_{name}_bucket", le="+Inf", **FP32) == 3
    bounds = ("1.0", "2.0", "4.0", "8.0")
    assert [moved.value("convserve_batch_rows_bucket", le=bound, **FP32) for bound in bounds] == [1, 1, 2, 3]
    assert moved.value("convserve_batch_rows_sum", **FP32) == 9
    assert moved.value("convserve_rows_total", **FP32) == 9
    triton = ("request_success", "request_failure", "count", "exec_count")
    assert [moved.value(f"nv_inference_{name}", **FP32) for name in triton] == [3, 0, 9, 3]
    whole, run = (moved.value(f"nv_inference_{name}_duration_us", **FP32) for name in ("request", "compute_infer"))
    assert 0 <= run <= whole
    assert abs(whole / 1e6 - moved.value("convserve_request_duration_seconds_sum", **FP32)) < 1e-5


def test_statistics_say_the_same(metered: MeteredServer) -> None:
    """ModelStatistics and /metrics are one count."""
    infer(metered, infer_request("identity-fp32", x=np.zeros((2, 2), np.float32)))
    (told,) = ask(metered, "ModelStatistics", pb.ModelStatisticsRequest(name="identity-fp32")).model_stats
    page = metered.page()
    assert page.value("convserve_rows_total", **FP32) == told.inference_count
    assert page.value("convserve_batch_rows_count", **FP32) == told.execution_count
    assert page.value("convserve_request_duration_seconds_count", **FP32) == told.inference_stats.success.count


def test_each_message_of_stream_counts(metered: MeteredServer) -> None:
    """Messages of a stream are requests, those with an error too."""
    good = infer_request("identity-fp32", x=np.zeros((1, 2), np.float32))
    bad = infer_request("nothing", x=np.zeros((1, 2), np.float32))
    with moves(metered) as moved, metered.channel() as channel:
        call = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )
        assert len(list(call(iter([good, bad, good]), timeout=TIMEOUT_S))) == 3
    assert moved.calls == {("identity-fp32", "1", "OK"): 2, ("", "", "NOT_FOUND"): 1}
    assert moved.refusals == {("", "", "unknown_model"): 1}


def test_images_that_fail_count(metered: MeteredServer) -> None:
    """Each image of a call with an error is a refusal; the call is answered."""
    good, bad = image(IMAGES[0].tobytes()), image(b"short")
    with moves(metered) as moved:
        classify(metered, ic.ClassifyRequest(model_name="linear", images=[bad]))
        classify(metered, ic.ClassifyRequest(model_name="linear", images=[good, bad, bad]))
    assert moved.calls == {("linear", "3", "OK"): 2}
    assert moved.refusals == {("linear", "3", "invalid_request"): 3}


def test_calls_without_images_count(metered: MeteredServer) -> None:
    """A Classify call that cannot be answered counts under the model that it named."""
    with moves(metered) as moved, pytest.raises(grpc.RpcError):
        classify(metered, ic.ClassifyRequest(model_name="linear"))
    assert moved.calls == {("linear", "3", "INVALID_ARGUMENT"): 1}
    assert moved.refusals == {("linear", "3", "invalid_request"): 1}


def test_predictions_are_those_answered(metered: MeteredServer) -> None:
    """Labels and probabilities that are counted are those that callers got, by either API."""
    with moves(metered) as moved:
        probabilities = infer(metered, infer_request("linear", images=IMAGES))["probabilities"]
        classify(metered, ic.ClassifyRequest(model_name="linear", images=[image(IMAGES[0].tobytes())]))
    expected: dict[tuple[str, str, str], float] = {}
    for index in [*probabilities.argmax(axis=1), probabilities[0].argmax()]:
        name = ("linear", "3", f"class {index}")
        expected[name] = expected.get(name, 0) + 1
    top = np.append(probabilities.max(axis=1), probabilities[0].max())
    assert moved.by("convserve_predictions_total", "label") == expected
    assert moved.value("convserve_prediction_confidence_count", **LINEAR) == 41
    assert moved.value("convserve_prediction_confidence_bucket", le="0.5", **LINEAR) == (top <= 0.5).sum()
    assert moved.value("convserve_prediction_confidence_sum", **LINEAR) == pytest.approx(top.sum(dtype=float), rel=1e-6)


def waiting(page: Page) -> float:
    """Rows in the queue of the patient server."""
    return page.value("convserve_queue_rows", model="laborious", version="1")


def rows(count: int) -> pb.ModelInferRequest:
    """A request of so many rows that take no work."""
    return infer_request("laborious", index=np.zeros(count, np.int64), work=np.zeros(count, np.int64))


def test_rows_that_wait_show(patient: MeteredServer) -> None:
    """The queue shows in gauges; what is cancelled there leaves them, and counts as CANCELLED."""
    before = patient.page().total("convserve_requests_total", code="CANCELLED")
    with moves(patient) as moved, patient.channel() as channel:
        future = model_infer(channel).future(rows(5), timeout=TIMEOUT_S)
        page = patient.await_page(lambda page: waiting(page) == 5)
        assert page.value("convserve_queue_limit_rows", model="laborious", version="1") == 80
        assert page.value("convserve_connections") >= 1
        future.cancel()
        patient.await_page(lambda page: page.total("convserve_requests_total", code="CANCELLED") == before + 1)
        assert waiting(patient.page()) == 0
    assert moved.calls == {("laborious", "1", "CANCELLED"): 1}


def test_missed_deadlines_are_counted(patient: MeteredServer) -> None:
    """A call whose deadline passes in the queue counts as what its caller sees."""
    before = patient.page().total("convserve_requests_total", code="DEADLINE_EXCEEDED")
    with moves(patient) as moved, patient.channel() as channel:
        with pytest.raises(grpc.RpcError) as refused:
            model_infer(channel)(rows(1), timeout=0.2)
        assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        patient.await_page(lambda page: page.total("convserve_requests_total", code="DEADLINE_EXCEEDED") == before + 1)
    assert moved.calls == {("laborious", "1", "DEADLINE_EXCEEDED"): 1}


def test_full_queues_are_counted(patient: MeteredServer) -> None:
    """What finds the queue full counts by which of its limits that was."""
    with moves(patient) as moved, patient.channel() as channel:
        held: list[Any] = []
        for count in (40, 23):
            held.append(model_infer(channel).future(rows(count), timeout=TIMEOUT_S))
            patient.await_page(lambda page: waiting(page) == sum((40, 23)[: len(held)]))
        with pytest.raises(grpc.RpcError) as refused:
            model_infer(channel)(rows(60), timeout=TIMEOUT_S)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        held.append(model_infer(channel).future(rows(1), timeout=TIMEOUT_S))  # the 64th: they run
        for future in held:
            future.result()
    assert moved.calls == {("laborious", "1", "OK"): 3, ("laborious", "1", "RESOURCE_EXHAUSTED"): 1}
    assert moved.refusals == {("laborious", "1", "queue_rows"): 1}


def test_rejected_models_are_told(metered: MeteredServer) -> None:
    """Versions that cannot be asked are there with 0, and what is known of the others is told."""
    page = metered.page()
    assert page.value("convserve_model_ready", model="broken", version="1") == 0
    assert ("convserve_model_ready", frozenset({("model", "broken"), ("version", "1")})) in page
    assert page.value("convserve_model_ready", **LINEAR) == 1
    assert page.value("convserve_model_info", provider="cpu", arithmetic="fp32", **LINEAR) == 1
    assert 0 <= page.value("convserve_probe_deviation", **LINEAR) <= page.value("convserve_probe_tolerance", **LINEAR)
    assert page.total("convserve_build_info", transport=metered.transport) == 1
    assert page.value("convserve_ready") == 1
    assert page.value("convserve_cpu_seconds_total") > 0
    assert page.value("convserve_resident_memory_bytes") > 2**20


def test_large_messages_are_counted(metered: MeteredServer) -> None:
    """A message above the limit counts on the native transport; gRPC's library refuses it unseen."""
    if metered.transport != "native":
        pytest.skip("gRPC's library answers these itself, and tells nothing of them")
    request = infer_request("identity-uint8", x=np.zeros((2**19, 2), np.uint8))
    with moves(metered) as moved, pytest.raises(grpc.RpcError):
        infer(metered, request)
    assert moved.refusals == {("", "", "message_size"): 1}
