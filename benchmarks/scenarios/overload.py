"""Requests that come at a rate of their own, up to twice what the server can do, from an open loop."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from benchmarks import calls, open_loop, session_ceiling
from benchmarks.bench import ONE_PROCESS, Bench, Results
from benchmarks.errors import BenchmarkError
from benchmarks.open_loop import OK, RESOURCE_EXHAUSTED
from benchmarks.processes import ServerProcess
from benchmarks.request_payload import RequestPayload
from benchmarks.samples import Figures, Spread, better, latencies
from benchmarks.section import Line, Section, Table, plain, spread
from service.settings import Settings

MODEL, THREADS = "cifar10-cnn", 1
"""A run long enough, and cores left, so that the load generator's share is small: it is in Python."""
QUEUE_ROWS: int = Settings.max_queue_rows
LOADS = (0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 1.1)
"""Shares of the sustainable rate."""
TWICE = 2.0
MORE, TRIES = 1.3, 3
"""Times the session ceiling is offered, so often, to find the sustainable rate."""
OVERLOAD_SHARE = 2.0
"""Times the usual seconds, once the queue is full."""
WARM_S = 0.2
"""Of the beginning, are not counted."""
SETTLED_S = 0.02
"""Between two looks at how many requests have succeeded."""
RANKS = ("p50", "p95", "p99")
FLAT, IMMEDIATE_MS, PATIENT = 1.05, 5.0, 1.2
"""Targets: memory after the last overload over that after the first; median of a refusal; p99 of what is accepted,
over the time that a full queue takes."""


@dataclass
class Subject:
    """A server under this load, and what it is asked."""

    server: ServerProcess
    payload: RequestPayload
    model: str
    seeds: Iterator[int] = field(default_factory=itertools.count)
    """Other arrivals each time."""

    def load(self, rate: float, seconds: float, warm_s: float = WARM_S) -> Figures:
        """Poisson arrivals at this rate; counted are those after ``warm_s``.

        Raises BenchmarkError where a request has another end than OK or RESOURCE_EXHAUSTED, or where
        the server counts more or fewer than came back.
        """
        address = self.server.address
        due = open_loop.poisson(rate, warm_s + seconds, next(self.seeds) * 2)
        before, cpu_s, rss_mb = self._successes(), self.server.cpu_s(), max(self.server.rss_mb())
        outcome = open_loop.run(address, self.payload, due)
        cpu_s = self.server.cpu_s() - cpu_s
        succeeded, came = self._successes() - before, outcome.count(OK)
        if succeeded != came:
            raise BenchmarkError(f"{came} responses came back, the server counts {succeeded}: one of us miscounts")
        if came + outcome.count(RESOURCE_EXHAUSTED) != len(due):
            codes = sorted(set(outcome.status.tolist()) - {OK, RESOURCE_EXHAUSTED})
            raise BenchmarkError(
                f"some of {len(due)} requests ended with the gRPC codes {codes}, not with OK or refused"
            )
        counted = outcome.due >= warm_s * 1e9
        accepted = outcome.latency_us[counted & (outcome.status == OK)]
        if not accepted.size:
            raise BenchmarkError("no request succeeded in the measured time: give it more with --seconds")
        refused = outcome.latency_us[outcome.status == RESOURCE_EXHAUSTED]
        return {
            "offered_per_s": float(counted.sum() / seconds),
            "goodput_per_s": outcome.rate(OK, warm_s, warm_s + seconds),
            **latencies(accepted.tolist()),
            "refused": float(refused.size),
            "refused_p50_us": float(np.median(refused)) if refused.size else 0.0,
            "refused_p99_us": float(np.quantile(refused, 0.99)) if refused.size else 0.0,
            "lag_p50_us": float(np.median(outcome.lag_us)),
            "lag_p99_us": float(np.quantile(outcome.lag_us, 0.99)),
            "generator_cores": outcome.cpu_s / outcome.seconds,
            "server_cores": cpu_s / outcome.seconds,
            "rss_before_mb": rss_mb,
            "rss_after_mb": max(self.server.rss_mb()),
        }

    def _successes(self) -> int:
        """The requests that the server counts, twice the same: it counts them after the responses."""
        seen = -1
        while (counted := calls.success_count(self.server.address, self.model)) != seen:
            seen = counted
            time.sleep(SETTLED_S)
        return counted


def measure(bench: Bench) -> Section:
    """Raises BenchmarkError where the server does not start, or see ``Subject.load``."""
    workload = bench.workload(MODEL, threads=THREADS)
    with ExitStack() as stack:
        bench.note("looking for the sustainable rate")
        server = bench.serve(stack, MODEL, "--threads", str(THREADS), *ONE_PROCESS)
        subject = Subject(server, calls.infer(server.address, workload), MODEL)
        ceiling = session_ceiling.best_measurement(workload.model, bench.seconds / 2)()
        tries = [subject.load(MORE * ceiling["images_per_s"], bench.seconds)["goodput_per_s"] for _ in range(TRIES)]
        rate = statistics.median(tries)
        measurements: dict[str, Callable[[], Figures]] = {
            f"{load:.0%}": partial(subject.load, load * rate, bench.seconds) for load in LOADS
        }
        full_s = QUEUE_ROWS / rate
        measurements[f"{TWICE:.0%}"] = partial(
            subject.load, TWICE * rate, bench.seconds * OVERLOAD_SHARE, WARM_S + full_s
        )
        results = bench.interleave(measurements)
    return _section(results, rate, bench.seconds)


def _section(results: Results, rate: float, seconds: float) -> Section:
    waits = [f"{rank}, µs" for rank in RANKS]
    sent = ("sent late, p99 µs", "server's cores", "generator's")
    columns = ("load", "offered/s", "goodput/s", *waits, "refused", *sent)
    rows = [
        (
            load,
            plain(figures["offered_per_s"].median),
            spread(figures["goodput_per_s"]),
            *(plain(figures[f"{rank}_us"].median) for rank in RANKS),
            *(plain(figures[name].median) for name in ("refused", "lag_p99_us", "server_cores", "generator_cores")),
        )
        for load, figures in results.items()
    ]
    remark = (
        f"{MODEL}, one image a request, {THREADS} thread in the session; the load generator, in Python, shares the "
        "cores (how late it was, and how many cores it took, is in the table). Latency counts from the arrival as "
        f"drawn. Sustainable rate: {plain(rate)}/s, what came back while {MORE:g} times the session ceiling was "
        f"offered. {plain(seconds)} s a point; at {TWICE:.0%} the time in which the queue fills is not counted. "
        "After each point the responses counted here are those of the server's own ModelStatistics."
    )
    overloaded = results[f"{TWICE:.0%}"]["refused"].lowest > 0
    doubt = (
        f"Nothing was refused in a round at {TWICE:.0%}: the sustainable rate was found too low. Measure again, on a "
        "quieter machine or with more --seconds."
    )
    return Section(
        "overload",
        "Open loop and overload",
        _targets(results) if overloaded else [],
        [Table("Poisson arrivals", columns, rows)],
        [remark] if overloaded else [remark, doubt],
        results,
    )


def _targets(results: Results) -> list[Line]:
    twice = results[f"{TWICE:.0%}"]
    goodput, offered = twice["goodput_per_s"], twice["offered_per_s"]
    peak = better([results[f"{load:.0%}"]["goodput_per_s"] for load in LOADS])
    refused = [
        f"{plain(twice[name].median)} {unit}" for name, unit in (("refused_p99_us", "µs"), ("refused", "a round"))
    ]
    full_us = Spread(tuple(QUEUE_ROWS / value * 1e6 for value in goodput.values))
    before, after = twice["rss_before_mb"], twice["rss_after_mb"]
    growth = Spread((after.values[-1] / (after.values[0] if len(after.values) > 1 else before.values[0]),))
    memory = [plain(value) for value in (before.values[0], after.values[0], after.values[-1])]
    return [
        Line(
            f"{TWICE:.0%} of the sustainable rate: goodput / peak goodput",
            goodput / peak,
            at_least=0.95,
            because=f"{plain(goodput.median)} of {plain(peak.median)}/s; {plain(offered.median)}/s offered",
        ),
        Line(
            "refusals (RESOURCE_EXHAUSTED): median latency",
            twice["refused_p50_us"].scaled(1e-3),
            "ms",
            at_most=IMMEDIATE_MS,
            because=f"p99 {', '.join(refused)}",
        ),
        Line(
            "accepted: p99 / time a full queue takes",
            twice["p99_us"] / full_us,
            at_most=PATIENT,
            because=f"{plain(twice['p99_us'].median / 1e3)} ms; {QUEUE_ROWS:,} rows may wait, "
            f"{plain(full_us.median / 1e3)} ms",
        ),
        Line(
            "memory after the last overload / after the first",
            growth,
            at_most=FLAT,
            because=f"before {memory[0]} MB, after the first {memory[1]}, after the last {memory[2]}",
        ),
    ]
