"""All metrics: name, type, labels and meaning. docs/metrics.md has the same table."""

from dataclasses import dataclass
from typing import Literal

from .counters import DURATIONS_NS, NS
from .predictions import CONFIDENCES

Kind = Literal["counter", "gauge", "histogram", "untyped"]
Merge = Literal["sum", "max"]

MODEL = ("model", "version")
SECONDS = tuple(bound / NS for bound in DURATIONS_NS)
BATCH_ROWS = tuple(float(2**power) for power in range(11))


@dataclass(frozen=True)
class Metric:
    """One metric; of several workers its values are added, or the largest is taken."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    meaning: str
    bounds: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, without infinity."""
    merge: Merge = "sum"


def _counter(name: str, labels: tuple[str, ...], meaning: str) -> Metric:
    return Metric(name, "counter", labels, meaning)


def _gauge(name: str, labels: tuple[str, ...], meaning: str, merge: Merge = "sum") -> Metric:
    return Metric(name, "gauge", labels, meaning, merge=merge)


def _histogram(name: str, meaning: str, bounds: tuple[float, ...]) -> Metric:
    return Metric(name, "histogram", MODEL, meaning, bounds)


def _triton(name: str, meaning: str) -> Metric:
    # Untyped: Prometheus's own names of counters end with _total, and these do not.
    return Metric(name, "untyped", MODEL, meaning)


METRICS = (
    _counter(
        "convserve_requests_total",
        (*MODEL, "code"),
        "Inference calls (ModelInfer, each message of ModelStreamInfer, Classify) by gRPC status code; model is empty "
        "where the call failed before its model was known.",
    ),
    _counter(
        "convserve_refusals_total",
        (*MODEL, "reason"),
        "Errors sent to callers, of any RPC and of single images of Classify, by reason.",
    ),
    _counter("convserve_rows_total", MODEL, "Rows (images) that were run."),
    _histogram("convserve_request_duration_seconds", "From a request's arrival at the queue to its result.", SECONDS),
    _histogram("convserve_queue_duration_seconds", "From a request's arrival to the start of its first run.", SECONDS),
    _histogram("convserve_run_duration_seconds", "One run of the model.", SECONDS),
    _histogram("convserve_batch_rows", "Rows of one run.", BATCH_ROWS),
    _gauge("convserve_queue_rows", MODEL, "Rows that wait for a run."),
    _gauge("convserve_queue_limit_rows", MODEL, "Rows that may wait, --max-queue-rows of all workers."),
    _gauge("convserve_runs_in_progress", MODEL, "Runs under way."),
    _counter("convserve_predictions_total", (*MODEL, "label"), "Rows by the class that a classifier predicted."),
    _histogram("convserve_prediction_confidence", "The highest probability of each row of a classifier.", CONFIDENCES),
    _gauge("convserve_model_ready", MODEL, "1 where the model version can be asked, 0 where it was rejected.", "max"),
    _gauge(
        "convserve_model_info", (*MODEL, "provider", "arithmetic"), "1; its labels tell how the model is run.", "max"
    ),
    _gauge(
        "convserve_probe_deviation",
        MODEL,
        "Largest deviation of the probe's logits at load, from those in the file.",
        "max",
    ),
    _gauge("convserve_probe_tolerance", MODEL, "Largest deviation that is accepted at load.", "max"),
    _gauge("convserve_ready", (), "1 while the server takes requests; with workers, while any of them does.", "max"),
    _gauge("convserve_connections", (), "Connections that are open."),
    _gauge("convserve_workers", ("state",), "Worker processes by state: wanted, ready; none without --workers."),
    _counter("convserve_worker_deaths_total", (), "Workers that ended without having been told to."),
    _counter("convserve_slow_turns_total", (), "Turns of the receiving thread of a second or longer."),
    _counter("convserve_slow_runs_total", (), "Runs of a second or longer."),
    _counter("convserve_log_lines_dropped_total", (), "Lines of the log that could not be written."),
    _counter("convserve_cpu_seconds_total", (), "Processor time of the serving processes."),
    _gauge("convserve_resident_memory_bytes", (), "Resident memory of the serving processes, shared pages repeated."),
    _gauge("convserve_start_time_seconds", (), "When the youngest serving process started, in Unix time.", "max"),
    _gauge(
        "convserve_build_info",
        ("server_version", "onnxruntime", "python", "transport"),
        "1; its labels tell what runs.",
        "max",
    ),
)
TRITON_METRICS = (
    _triton("nv_inference_request_success", "Calls that were answered with a result."),
    _triton("nv_inference_request_failure", "Calls that were not."),
    _triton("nv_inference_count", "Rows that were run."),
    _triton("nv_inference_exec_count", "Runs."),
    _triton("nv_inference_request_duration_us", "Time of all requests from arrival to result, in microseconds."),
    _triton("nv_inference_queue_duration_us", "Time of all requests in the queue, in microseconds."),
    _triton("nv_inference_compute_infer_duration_us", "Time of all requests in runs, in microseconds."),
)
BY_NAME = {metric.name: metric for metric in METRICS + TRITON_METRICS}
