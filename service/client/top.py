"""``top``: what a server's models do now, as rates between two readings of its counters."""

import argparse
import http.client
import json
import math
import time
import urllib.request
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Protocol

from .errors import ServerFailure, ServerUnavailable
from .rpcs import STATISTICS
from .sync import Client
from .tables import Cell, Figure, Output

HEADS: tuple[str, ...] = ("model", "version", "requests/s", "images/s", "batch", "mean ms", "p50 ms", "p99 ms")
HEADS += ("queue ms", "queued", "errors/s")


@dataclass
class ModelCounters:
    """What one model version has done since its server started."""

    requests: float = 0
    rows: float = 0
    runs: float = 0
    errors: float = 0
    request_s: float = 0
    queue_s: float = 0
    buckets: dict[float, float] = field(default_factory=dict)
    """Requests by upper bound of their duration, those of shorter ones included; empty: not told."""
    queued_rows: float | None = None


@dataclass
class Reading:
    """All counters of a server at one time."""

    at_s: float
    models: dict[tuple[str, str], ModelCounters] = field(default_factory=dict)
    refusals: dict[str, float] = field(default_factory=dict)
    """By reason."""
    gauges: dict[str, float] = field(default_factory=dict)
    """Connections and workers."""

    def model(self, name: str, version: str) -> ModelCounters:
        """The counters of one version."""
        return self.models.setdefault((name, version), ModelCounters())


@dataclass(frozen=True)
class ModelRates:
    """What one model version does: per second, and per request or run."""

    name: str
    version: str
    requests_per_s: float
    images_per_s: float
    batch_rows: float | None
    mean_ms: float | None
    p50_ms: float | None
    p99_ms: float | None
    queue_ms: float | None
    queued_rows: float | None
    errors_per_s: float

    @classmethod
    def between(
        cls, name: str, version: str, pair: tuple[ModelCounters, ModelCounters], seconds: float
    ) -> "ModelRates":
        """From two readings so many seconds apart."""
        before, after = pair
        requests = after.requests - before.requests
        rows, runs = after.rows - before.rows, after.runs - before.runs
        buckets = {bound: count - before.buckets.get(bound, 0) for bound, count in after.buckets.items()}
        return cls(
            name,
            version,
            requests_per_s=requests / seconds,
            images_per_s=rows / seconds,
            batch_rows=_ratio(rows, runs),
            mean_ms=_ratio(1e3 * (after.request_s - before.request_s), requests),
            p50_ms=_quantile_ms(buckets, 0.5),
            p99_ms=_quantile_ms(buckets, 0.99),
            queue_ms=_ratio(1e3 * (after.queue_s - before.queue_s), requests),
            queued_rows=after.queued_rows,
            errors_per_s=(after.errors - before.errors) / seconds,
        )


@dataclass(frozen=True)
class Rates:
    """What a server does."""

    seconds: float
    """Between the two readings."""
    models: list[ModelRates]
    refusals_per_s: dict[str, float]
    gauges: dict[str, float]

    @classmethod
    def between(cls, before: Reading, after: Reading) -> "Rates":
        """From two readings."""
        seconds = after.at_s - before.at_s
        return cls(
            seconds,
            [
                ModelRates.between(*key, (before.models.get(key, ModelCounters()), counters), seconds)
                for key, counters in sorted(after.models.items())
            ],
            {reason: (count - before.refusals.get(reason, 0)) / seconds for reason, count in after.refusals.items()},
            after.gauges,
        )


class Source(Protocol):
    """Where counters are read."""

    def read(self) -> Reading:
        """Reads all. Raises ClientError."""


class StatisticsSource(Client):
    """Reads ModelStatistics: of all workers, without percentiles and queue."""

    def read(self) -> Reading:
        """Reads all models. Raises ClientError."""
        answer = self._hold(self._ask(STATISTICS, STATISTICS.request()))
        reading = Reading(time.monotonic())
        for told in answer.model_stats:
            stats = told.inference_stats
            reading.models[told.name, told.version] = ModelCounters(
                requests=stats.success.count,
                rows=told.inference_count,
                runs=told.execution_count,
                errors=stats.fail.count,
                request_s=stats.success.ns / 1e9,
                queue_s=stats.queue.ns / 1e9,
            )
        return reading


class MetricsSource:
    """Reads ``/metrics``: of all workers, with percentiles, queue and refusals."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url = url if "://" in url else f"http://{url}/metrics"
        self._timeout_s = timeout_s

    def read(self) -> Reading:
        """Reads the page. Raises ClientError."""
        from prometheus_client.parser import text_string_to_metric_families

        try:
            with urllib.request.urlopen(self._url, timeout=self._timeout_s) as answer:  # noqa: S310 - the user's own
                text = answer.read().decode()
            reading = Reading(time.monotonic())
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    _take(reading, sample.name, sample.labels, sample.value)
        except OSError as error:
            raise ServerUnavailable(
                f"no metrics can be read at {self._url} ({error}): start the server with --metrics-port"
            ) from error
        except (ValueError, KeyError, http.client.HTTPException) as error:
            raise ServerFailure(f"what is at {self._url} are no metrics of this server: {error!r:.100}") from error
        if "ready" not in reading.gauges:
            raise ServerFailure(f"what is at {self._url} are no metrics of this server")
        return reading


def run(args: argparse.Namespace, output: Output) -> int:
    """Write what the models do, once or until interrupted."""
    with StatisticsSource(args.address, timeout_s=args.timeout_s, tls=args.tls) as statistics:
        source: Source = statistics if args.metrics is None else MetricsSource(args.metrics, args.timeout_s)
        target: str = args.address if args.metrics is None else args.metrics
        before = source.read()
        with nullcontext(output.table) if args.once or args.json else output.live() as show:
            while True:
                time.sleep(args.interval_s)
                after = source.read()
                rates = Rates.between(before, after)
                if args.json:
                    document = {"target": target, **asdict(rates)}
                    output.line(json.dumps(document, indent=2 if args.once else None, ensure_ascii=False))
                else:
                    show(HEADS, [[_row(each)] for each in rates.models], caption=_caption(target, rates))
                if args.once:
                    return 0
                before = after


def _row(rates: ModelRates) -> list[Cell]:
    name, version, *figures = asdict(rates).values()
    return [name or "(none)", version, *(Figure(math.nan if figure is None else figure) for figure in figures)]


def _caption(target: str, rates: Rates) -> str:
    parts = [target, *(f"{name.replace('_', ' ')} {value:g}" for name, value in sorted(rates.gauges.items()))]
    parts += [f"{reason} {rate:.1f}/s" for reason, rate in sorted(rates.refusals_per_s.items()) if rate]
    return ", ".join(parts)


def _ratio(amount: float, count: float) -> float | None:
    return amount / count if count > 0 else None


def _quantile_ms(buckets: dict[float, float], share: float) -> float | None:
    """The duration that this share of the requests keeps, as Prometheus's histogram_quantile has it."""
    total = buckets.get(math.inf, 0)
    if total <= 0:
        return None
    low, below = 0.0, 0.0
    for bound, count in sorted(buckets.items()):
        if count >= share * total:
            if math.isinf(bound):
                return 1e3 * low
            return 1e3 * (low + (bound - low) * (share * total - below) / (count - below))
        low, below = bound, count
    return None


_FIELDS = {
    "convserve_request_duration_seconds_count": "requests",
    "convserve_request_duration_seconds_sum": "request_s",
    "convserve_queue_duration_seconds_sum": "queue_s",
    "convserve_batch_rows_sum": "rows",
    "convserve_batch_rows_count": "runs",
    "convserve_queue_rows": "queued_rows",
}


def _take(reading: Reading, name: str, labels: dict[str, str], value: float) -> None:
    """Takes one sample of the page."""
    if name in _FIELDS:
        setattr(reading.model(labels["model"], labels["version"]), _FIELDS[name], value)
    elif name == "convserve_request_duration_seconds_bucket":
        reading.model(labels["model"], labels["version"]).buckets[float(labels["le"])] = value
    elif name == "convserve_requests_total" and labels["code"] != "OK":
        reading.model(labels["model"], labels["version"]).errors += value
    elif name == "convserve_refusals_total":
        reading.refusals[labels["reason"]] = reading.refusals.get(labels["reason"], 0) + value
    elif name == "convserve_workers":
        reading.gauges[f"workers_{labels['state']}"] = value
    elif name in ("convserve_ready", "convserve_connections"):
        reading.gauges[name.removeprefix("convserve_")] = value
