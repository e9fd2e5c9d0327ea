"""``python -m tests.soak``: many mixed requests and faults against the real server; exit code 1 if anything is wrong.

Each answer is compared with ONNX Runtime's. Prints tables, and writes them to a Markdown and a JSON file.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import onnxruntime

from tests.servers import ROOT, ServerProcess
from tests.soak.callers import IN_FLIGHT, Callers, Tally
from tests.soak.faults import Faults, make_models
from tests.soak.requests import FILES
from tests.soak.samples import Sample, growth, sample

SAMPLES = 40
ROWS_SHOWN = 8
EVERY = {"swap": 5_000, "nonsense": 5_000, "bad_version": 20_000, "reload": 20_000, "kill": 20_000}
"""So many requests lie between two faults of a kind; each happens at least once."""
QUIET_S = 30.0
"""How long the server may take to close the connections of callers that have gone."""


@dataclass
class Result:
    """What came of one server."""

    server: str
    seconds: float
    tally: Tally
    faults: dict[str, int]
    samples: list[Sample]
    idle: Sample
    after: Sample
    wrong: list[str]


def main() -> int:
    """Runs each server asked for with its share of the requests."""
    args = _parser().parse_args()
    servers = [(transport, workers) for transport in args.transport.split(",") for workers in args.workers]
    results = [_soak(transport, workers, args.requests // len(servers)) for transport, workers in servers]
    text = "\n\n".join(_page(results))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    args.output.with_suffix(".json").write_text(json.dumps(list(map(_as_json, results)), indent=1), encoding="utf-8")
    sys.stdout.write(text + "\n")
    return 1 if any(result.wrong for result in results) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000, help="of all servers together")
    parser.add_argument("--transport", default="native,grpcio", help="one, or both with a comma")
    parser.add_argument("--workers", type=_numbers, default=[0, 2], help="0: a single process; several with a comma")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "soak", help=".md and .json are added")
    return parser


def _numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


def _soak(transport: str, workers: int, requests: int) -> Result:
    name = f"{transport}, {workers} workers" if workers else f"{transport}, one process"
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        make_models(models)
        options = ("--model-control", "explicit", "--models", ",".join(FILES), "--workers", str(workers))
        with ServerProcess(models, *options, transport=transport) as server:
            if workers:
                server.events.await_one("all workers are ready")
            result = _load(server, Faults(server, models, workers), name, requests)
            if code := server.terminate():
                result.wrong.append(f"the server ended with {code}")
    killed = result.faults.get("workers killed", 0)
    result.wrong += result.tally.wrong + growth(result.samples, result.idle, result.after)
    if result.tally.unavailable > 2 * IN_FLIGHT * killed:
        result.wrong.append(f"{result.tally.unavailable} requests were lost by {killed} killed workers")
    return result


def _load(server: ServerProcess, faults: Faults, name: str, requests: int) -> Result:
    idle = _settled(server, 0, lambda _: True)
    due = _schedule(requests, faults.kinds)
    at, fault = next(due)
    samples: list[Sample] = []
    total, began = Tally(), time.monotonic()
    callers = Callers(server.address, requests)
    while callers.collect(total):
        _progress(name, total.requests, requests, began)
        while fault and total.requests >= at:
            getattr(faults, fault)()
            at, fault = next(due, (requests, ""))
        if total.requests >= len(samples) * requests / SAMPLES and (seen := sample(server, total.requests)):
            samples.append(seen)
    seconds = time.monotonic() - began
    after = _settled(server, total.requests, lambda seen: seen.descriptors <= idle.descriptors)
    return Result(name, seconds, total, dict(faults.counts), samples, idle, after, [])


def _schedule(requests: int, kinds: list[str]) -> Iterator[tuple[float, str]]:
    """After how many requests which fault happens; evenly, and the kinds apart from each other."""
    times = [
        (requests * (number + 0.1 + 0.2 * place) / count, kind)
        for place, kind in enumerate(kinds)
        for count in [max(1, requests // EVERY[kind])]
        for number in range(count)
    ]
    yield from sorted(times)
    yield requests, ""


def _settled(server: ServerProcess, requests: int, enough: Callable[[Sample], bool]) -> Sample:
    """A sample for which it is enough, or the last one when the time is over."""
    until = time.monotonic() + QUIET_S
    while True:
        seen = sample(server, requests)
        if seen and (enough(seen) or time.monotonic() > until):
            return seen
        time.sleep(0.1)


def _progress(name: str, done: int, requests: int, began: float) -> None:
    if not sys.stderr.isatty():
        return
    share = min(done / requests, 1.0)
    bar = "█" * int(30 * share) + "·" * (30 - int(30 * share))
    sys.stderr.write(f"\r{name:24} {bar} {done:,} of {requests:,}, {done / (time.monotonic() - began):,.0f}/s ")
    sys.stderr.write("\n" if share == 1 else "")
    sys.stderr.flush()


def _page(results: list[Result]) -> Iterator[str]:
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, ONNX Runtime {onnxruntime.__version__}"
    requests = sum(result.tally.requests for result in results)
    yield f"{requests:,} requests, {IN_FLIGHT} in flight; {machine}."
    yield _table(
        ["server", "requests", "minutes", "answers checked", "wrong", "lost by killed workers", "faults"],
        [
            [
                result.server,
                f"{result.tally.requests:,}",
                f"{result.seconds / 60:.1f}",
                f"{result.tally.checked:,}",
                str(len(result.wrong)),
                str(result.tally.unavailable),
                ", ".join(f"{count} {name}" for name, count in result.faults.items()),
            ]
            for result in results
        ],
    )
    yield _table(["request", "status", "count"], _statuses(results))
    for result in results:
        yield f"{result.server}:"
        yield _table(["requests", "processes", "resident MiB", "descriptors", "threads"], _held(result))
    wrong = [f"- {result.server}: {reason}" for result in results for reason in result.wrong[:20]]
    yield "Wrong:\n\n" + "\n".join(wrong) if wrong else "Nothing is wrong."


def _statuses(results: list[Result]) -> list[list[str]]:
    total = Tally()
    for result in results:
        total.statuses += result.tally.statuses
    return [[kind, code, f"{count:,}"] for (kind, code), count in sorted(total.statuses.items())]


def _held(result: Result) -> list[list[str]]:
    step = max(1, len(result.samples) // ROWS_SHOWN)
    shown = [("idle, before", result.idle), *((f"{each.requests:,}", each) for each in result.samples[::step])]
    shown.append(("idle, after", result.after))
    return [
        [name, *map(str, (each.processes, each.resident_mib, each.descriptors, each.threads))] for name, each in shown
    ]


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def _as_json(result: Result) -> dict[str, object]:
    return {
        "server": result.server,
        "requests": result.tally.requests,
        "seconds": round(result.seconds, 1),
        "checked": result.tally.checked,
        "unavailable": result.tally.unavailable,
        "statuses": {f"{kind}: {code}": count for (kind, code), count in sorted(result.tally.statuses.items())},
        "faults": result.faults,
        "samples": [asdict(each) for each in (result.idle, *result.samples, result.after)],
        "wrong": result.wrong,
    }


if __name__ == "__main__":
    sys.exit(main())
