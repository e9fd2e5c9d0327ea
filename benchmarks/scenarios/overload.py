"""Requests that come at a rate of their own, up to ten times what the server can do, from an open loop."""

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
from benchmarks.http2 import RESET
from benchmarks.open_loop import DEADLINE_EXCEEDED, OK, RESOURCE_EXHAUSTED
from benchmarks.processes import ServerProcess
from benchmarks.request_payload import RequestPayload
from benchmarks.samples import Figures, Spread, better, latencies
from benchmarks.section import Line, Section, Table, plain, spread
from service.settings import Settings

MODEL, ROWS, THREADS = "mnist-deep", 8, 1
"""Runs long beside what a refusal costs, and cores left: the load generator is in Python."""
QUEUE_MS: int = Settings.max_queue_ms
LOADS = (0.35, 0.65, 0.8, 0.95, 1.1)
"""Shares of the sustainable rate."""
OVERLOADS, DEADLINE_S = (2, 10), 0.2
MORE, TRIES = 1.3, 3
"""Times the session ceiling is offered, so often, to find the sustainable rate."""
OVERLOAD_SHARE = 2.0
"""Times the usual seconds."""
WARM_S, FULL_S = 0.2, 0.6
"""Of the beginning, are not counted; so many under overload, in which the queue fills."""
SETTLED_S = 0.02
"""Between two looks at how many requests have succeeded."""
RANKS = ("p50", "p95", "p99")


@dataclass
class Subject:
    """A server under this load, and what it is asked."""

    server: ServerProcess
    payload: RequestPayload
    model: str
    seeds: Iterator[int] = field(default_factory=itertools.count)
    """Other arrivals each time."""

    def load(self, rate: float, seconds: float, warm_s: float = WARM_S, deadline_s: float = 0.0) -> Figures:
        """Poisson arrivals at this rate; counted are those after ``warm_s``.

        Raises BenchmarkError where a request has another end than OK, RESOURCE_EXHAUSTED or the end of its deadline, or
        where the server counts more or fewer than came back.
        """
        due = open_loop.poisson(rate, warm_s + seconds, next(self.seeds) * 2)
        before, cpu_s, rss_mb = self._successes(), self.server.cpu_s(), max(self.server.rss_mb())
        outcome = open_loop.run(self.server.address, self.payload, due, deadline_s=deadline_s)
        cpu_s = self.server.cpu_s() - cpu_s
        succeeded, came = self._successes() - before, outcome.count(OK)
        if succeeded != came and not deadline_s:
            raise BenchmarkError(f"{came} responses came back, the server counts {succeeded}: one of us miscounts")
        expected = {OK, RESOURCE_EXHAUSTED} | ({DEADLINE_EXCEEDED, RESET} if deadline_s else set())
        if codes := set(outcome.status.tolist()) - expected:
            raise BenchmarkError(f"some of {len(due)} requests ended with the gRPC codes {sorted(codes)}")
        counted = outcome.due >= warm_s * 1e9
        accepted = outcome.latency_us[counted & (outcome.status == OK)]
        if not accepted.size:
            raise BenchmarkError("no request succeeded in the measured time: give it more with --seconds")
        refused = outcome.answer_us[counted & (outcome.status == RESOURCE_EXHAUSTED)]
        return {
            "offered_per_s": float(counted.sum() / seconds),
            "goodput_per_s": outcome.goodput(warm_s, warm_s + seconds, deadline_s or np.inf),
            **latencies(accepted.tolist()),
            "refused": float(refused.size),
            "refused_p50_us": float(np.median(refused)) if refused.size else 0.0,
            "refused_p99_us": float(np.quantile(refused, 0.99)) if refused.size else 0.0,
            "lag_p99_us": float(np.quantile(outcome.lag_us, 0.99)),
            "generator_cores": outcome.cpu_s / outcome.seconds,
            "server_cores": cpu_s / outcome.seconds,
            "rss_before_mb": rss_mb,
            "rss_after_mb": max(self.server.rss_mb()),
        }

    def run_ms(self) -> float:
        """The mean of the server's runs so far."""
        runs = [each.compute_infer for each in calls.statistics(self.server.address, self.model).batch_stats]
        return sum(run.ns for run in runs) / max(1, sum(run.count for run in runs)) / 1e6

    def _successes(self) -> int:
        """The requests that the server counts, twice the same: it counts them after the responses."""
        seen = -1
        while (counted := calls.success_count(self.server.address, self.model)) != seen:
            seen = counted
            time.sleep(SETTLED_S)
        return counted


def measure(bench: Bench) -> Section:
    """Raises BenchmarkError where the server does not start, or see ``Subject.load``."""
    workload = bench.workload(MODEL, ROWS, threads=THREADS)
    with ExitStack() as stack:
        bench.note("looking for the sustainable rate")
        server = bench.serve(stack, MODEL, "--threads", str(THREADS), *ONE_PROCESS)
        subject = Subject(server, calls.infer(server.address, workload), MODEL)
        offered = MORE * session_ceiling.best_measurement(workload.model, bench.seconds / 2)()["images_per_s"] / ROWS
        rate = statistics.median(subject.load(offered, bench.seconds)["goodput_per_s"] for _ in range(TRIES))
        measurements: dict[str, Callable[[], Figures]] = {
            f"{load:.0%}": partial(subject.load, load * rate, bench.seconds) for load in LOADS
        }
        for times, deadline_s in itertools.product(OVERLOADS, (0.0, DEADLINE_S)):
            measurements[_name(times, deadline_s)] = partial(
                subject.load, times * rate, bench.seconds * OVERLOAD_SHARE, FULL_S, deadline_s
            )
        results = bench.interleave(measurements)
        run_ms = subject.run_ms()
    remark = (
        f"{MODEL}, {ROWS} images a request, {THREADS} thread in the session; the load generator, in Python, shares the "
        "cores (how late it was, and how many cores it took, is in the table). Latency counts from the arrival as "
        f"drawn, a refusal's from when it was sent. Sustainable rate: {plain(rate)}/s, what came back while {MORE:g} "
        f"times the session ceiling was offered. {plain(bench.seconds)} s a point, {OVERLOAD_SHARE:g} times that "
        f"beyond it, behind the {FULL_S:g} s in which the queue fills. With a deadline, goodput is what came in time."
    )
    doubt = "Nothing was refused in a round beyond the rate, which was found too low: take more --seconds."
    overloaded = all(results[_name(times, 0.0)]["refused"].lowest > 0 for times in OVERLOADS)
    return Section(
        "overload",
        "Open loop and overload",
        _targets(results, run_ms) if overloaded else [],
        [_table(results)],
        [remark] if overloaded else [remark, doubt],
        results,
    )


def _name(times: int, deadline_s: float) -> str:
    return f"{times:.0%}, deadlines of {deadline_s * 1e3:g} ms" if deadline_s else f"{times:.0%}"


def _table(results: Results) -> Table:
    columns = (
        *("load", "offered/s", "goodput/s", *(f"{rank}, µs" for rank in RANKS), "refused", "refused p99, µs"),
        *("sent late, p99 µs", "server's cores", "generator's"),
    )
    figures = (*(f"{rank}_us" for rank in RANKS), "refused", "refused_p99_us", "lag_p99_us", "server_cores")
    rows = [
        (
            *(load, plain(each["offered_per_s"].median), spread(each["goodput_per_s"])),
            *(plain(each[name].median) for name in (*figures, "generator_cores")),
        )
        for load, each in results.items()
    ]
    return Table("Poisson arrivals", columns, rows)


def _targets(results: Results, run_ms: float) -> list[Line]:
    peak = better([results[f"{load:.0%}"]["goodput_per_s"] for load in LOADS])
    lines = []
    for times, deadline_s in itertools.product(OVERLOADS, (0.0, DEADLINE_S)):
        name = _name(times, deadline_s)
        goodput, offered = results[name]["goodput_per_s"], results[name]["offered_per_s"]
        because = f"{plain(goodput.median)} of {plain(peak.median)}/s; {plain(offered.median)}/s offered"
        least = 0.9 if deadline_s else 0.95
        lines.append(Line(f"{name}: goodput / peak goodput", goodput / peak, at_least=least, because=because))
    limit_ms = QUEUE_MS + 2 * run_ms
    for times in OVERLOADS:
        each, name = results[_name(times, 0.0)], _name(times, 0.0)
        because = f"--max-queue-ms and two runs of {plain(run_ms)} ms"
        lines.append(
            Line(f"{name}: p99 of the accepted", each["p99_us"].scaled(1e-3), "ms", at_most=limit_ms, because=because)
        )
        because = f"p99 {plain(each['refused_p99_us'].median / 1e3)} ms, {plain(each['refused'].median)} a round"
        lines.append(
            Line(f"{name}: median refusal", each["refused_p50_us"].scaled(1e-3), "ms", at_most=5.0, because=because)
        )
    memory = results[_name(OVERLOADS[-1], 0.0)]["rss_after_mb"].values
    before = results[_name(OVERLOADS[0], 0.0)]["rss_before_mb"].values[0]
    because = f"before the first {plain(before)} MB, after it {plain(memory[0])}, after the last {plain(memory[-1])}"
    growth = Spread((memory[-1] / memory[0],))
    return [*lines, Line("memory after the last overload / after the first", growth, at_most=1.05, because=because)]
