"""The values of one serving process, read from where they are counted."""

import contextlib
import os
import platform
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import __version__, logs
from ..api.image_classifier import is_classifier
from ..batching.batcher import Batcher
from ..batching.statistics import Statistics
from ..process.watchdog import Watchdog
from ..rpc.listener_drain import count_connections
from ..runtime.endpoint import Endpoint
from ..runtime.repository import Repository
from .catalog import BATCH_ROWS
from .counters import FAILURES, NS, DurationHistogram
from .predictions import Predictions
from .snapshot import Snapshot

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
STARTED = time.time()


@dataclass(frozen=True)
class Sources:
    """Where a process counts."""

    repository: Repository
    is_ready: Callable[[], bool]
    watchdog: Watchdog
    ports: Sequence[int]
    transport: str
    triton_names: bool


class ProcessMetrics:
    """Reads the values of this process.

    What model versions counted that are served no more stays in the sums.
    """

    def __init__(self, sources: Sources) -> None:
        import onnxruntime

        self._sources = sources
        self._onnxruntime = onnxruntime.__version__
        self._seen: dict[int, tuple[Statistics, weakref.ref[Batcher], tuple[str, str]]] = {}
        self._gone = Snapshot()
        self._lock = threading.Lock()
        self._watch_predictions()

    def snapshot(self) -> Snapshot:
        """Reads all values."""
        with self._lock:
            return self._read()

    def _read(self) -> Snapshot:
        result = Snapshot()
        self._watch_predictions()
        result.merge(self._gone)
        for key, (statistics, batcher, labels) in list(self._seen.items()):
            counted = self._counted(statistics, *labels)
            result.merge(counted)
            if batcher() is None:
                self._gone.merge(counted)
                del self._seen[key]
        for endpoint in list(self._sources.repository):
            _read_endpoint(result, endpoint)
        for name, version in self._sources.repository.contents.rejected:
            result.values.setdefault(("convserve_model_ready", (name, str(version))), 0)
        self._read_failures(result)
        self._read_process(result)
        return result

    def _watch_predictions(self) -> None:
        """Has the predictions of classifiers counted, also of those that have come since."""
        for endpoint in list(self._sources.repository):
            statistics = endpoint.batcher.statistics
            if id(statistics) in self._seen:
                continue
            self._seen[id(statistics)] = (
                statistics,
                weakref.ref(endpoint.batcher),
                (endpoint.name, endpoint.version),
            )
            if is_classifier(endpoint):
                statistics.predictions = Predictions(endpoint.session.metadata.labels)

    def _counted(self, statistics: Statistics, model: str, version: str) -> Snapshot:
        """What only grows."""
        result = Snapshot()
        labels = model, version
        statistics.fill_histograms()
        result.set("convserve_requests_total", statistics.answered, *labels, "OK")
        result.set("convserve_rows_total", statistics.rows, *labels)
        for name, histogram in (
            ("convserve_request_duration_seconds", statistics.requests),
            ("convserve_queue_duration_seconds", statistics.waits),
            ("convserve_run_duration_seconds", statistics.run_times),
        ):
            result.add_histogram(name, _in_seconds(histogram), *labels)
        rows = {rows: duration.count for rows, duration in statistics.run_by_rows.copy().items()}
        result.add_histogram("convserve_batch_rows", _by_rows(rows), *labels)
        if statistics.predictions is not None:
            classes, confidences = statistics.predictions.read()
            for label, count in classes.items():
                result.set("convserve_predictions_total", count, *labels, label)
            result.add_histogram("convserve_prediction_confidence", confidences, *labels)
        if self._sources.triton_names:
            _read_triton(result, statistics, *labels)
        return result

    def _read_failures(self, result: Snapshot) -> None:
        for (model, version, code), count in FAILURES.calls.copy().items():
            result.increase("convserve_requests_total", count, model, version, code)
            if self._sources.triton_names:
                result.increase("nv_inference_request_failure", count, model, version)
        for (model, version, reason), count in FAILURES.refusals.copy().items():
            result.increase("convserve_refusals_total", count, model, version, reason)

    def _read_process(self, result: Snapshot) -> None:
        sources = self._sources
        result.set("convserve_ready", int(sources.is_ready()))
        result.set("convserve_connections", sum(map(count_connections, sources.ports)))
        result.set("convserve_slow_turns_total", sources.watchdog.slow_turns)
        result.set("convserve_slow_runs_total", sources.watchdog.slow_runs)
        result.set("convserve_log_lines_dropped_total", logs.dropped_lines())
        result.set("convserve_cpu_seconds_total", time.process_time())
        result.set("convserve_start_time_seconds", STARTED)
        with contextlib.suppress(OSError):
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
            result.set("convserve_resident_memory_bytes", pages * PAGE_BYTES)
        result.set(
            "convserve_build_info", 1, __version__, self._onnxruntime, platform.python_version(), sources.transport
        )


def _read_endpoint(result: Snapshot, endpoint: Endpoint) -> None:
    labels = endpoint.name, endpoint.version
    batcher, session = endpoint.batcher, endpoint.session
    result.set("convserve_queue_rows", batcher.queued_rows, *labels)
    result.set("convserve_queue_limit_rows", batcher.policy.max_queue_rows, *labels)
    result.set("convserve_runs_in_progress", len(batcher.runs), *labels)
    result.set("convserve_model_ready", 1, *labels)
    result.set("convserve_model_info", 1, *labels, session.provider, session.arithmetic.name)
    if session.probe_deviation is not None:
        result.set("convserve_probe_deviation", session.probe_deviation, *labels)
    if session.probe_tolerance is not None:
        result.set("convserve_probe_tolerance", session.probe_tolerance, *labels)


def _read_triton(result: Snapshot, statistics: Statistics, *labels: str) -> None:
    result.set("nv_inference_request_success", statistics.answered, *labels)
    result.set("nv_inference_request_failure", 0, *labels)
    result.set("nv_inference_count", statistics.rows, *labels)
    result.set("nv_inference_exec_count", statistics.runs, *labels)
    result.set("nv_inference_request_duration_us", statistics.success.ns // 1000, *labels)
    result.set("nv_inference_queue_duration_us", statistics.queue.ns // 1000, *labels)
    result.set("nv_inference_compute_infer_duration_us", statistics.run.ns // 1000, *labels)


def _in_seconds(histogram: DurationHistogram) -> list[float]:
    return [*histogram.counts, histogram.total_ns / NS]


def _by_rows(runs: Mapping[int, int]) -> list[float]:
    counts = np.zeros(len(BATCH_ROWS) + 1)
    for rows, count in runs.items():
        counts[np.searchsorted(BATCH_ROWS, rows)] += count
    return [*counts.tolist(), sum(rows * count for rows, count in runs.items())]
