"""Results as tables for people and as one JSON line for machines."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.machine import BUSY_LOAD
from benchmarks.samples import Spread
from benchmarks.trial import Result

LEAST_WIDTH = 106
"""Columns that the tables need."""


def show(where: dict[str, Any], results: Sequence[Result]) -> None:
    """Prints where and when, throughput, and latency."""
    console = Console()
    console.width = max(console.width, LEAST_WIDTH)
    console.print(
        f"{where['date']}, {where['machine']}, {where['cores']} cores with the load generator on them, "
        f"load average {where['load_average']} before the start"
    )
    if where["load_average"] > BUSY_LOAD:
        console.print(
            "[bold]Other work runs on this machine: rates are too low and ratios range widely; "
            "CPU is the steadiest figure.[/bold]"
        )
    console.print(_throughput(results))
    console.print(_latency(results))
    console.print(
        "Medians over the rounds, ± half their range; in percent: served as a share of the ceiling, from each round's "
        "own figures (lowest-highest). Session alone: images per second over images a request. "
        "CPU: of the server's process, for one request."
    )


def record(where: dict[str, Any], results: Sequence[Result]) -> str:
    """Everything as one line of JSON."""
    return json.dumps({"benchmark": "throughput", **where, "results": [_plain(result) for result in results]})


def write(path: Path, line: str) -> None:
    """Writes the line to the file, whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(line + "\n")
    temporary.rename(path)


def ratios(result: Result, transport: str) -> dict[str, Spread]:
    """Served as a share of what the transport, the session, and the two one after the other reach."""
    served = result.taken[transport, "served"]["requests_per_s"]
    empty = result.taken[transport, "empty"]["requests_per_s"]
    session = result.taken["session", "best batch"]["images_per_s"].scaled(1 / result.images)
    return {
        "of_transport": served / empty,
        "of_session": served / session,
        "of_both": served / in_turn(empty, session),
    }


def in_turn(first: Spread, second: Spread) -> Spread:
    """The rate of doing one thing after the other, from the rates of either alone."""
    return Spread(tuple(1 / (1 / a + 1 / b) for a, b in zip(first.values, second.values, strict=True)))


def _throughput(results: Sequence[Result]) -> Table:
    table = _table(
        "Requests per second", "served", "transport\nalone", "session\nalone", "both\nin turn", "our\nclient"
    )
    for result in results:
        session = result.taken["session", "best batch"]["images_per_s"].scaled(1 / result.images)
        for transport in result.transports:
            served, empty = (result.taken[transport, kind] for kind in ("served", "empty"))
            alone = empty["requests_per_s"]
            share = ratios(result, transport)
            table.add_row(
                _asked(result, transport),
                f"{_counted(served['requests_per_s'])}\n{_processor_time(served)}",
                f"{_counted(alone)}\n{_processor_time(empty)}\n{_share(share['of_transport'])}",
                f"{_counted(session)}\n{_share(share['of_session'])}\nbatch {result.best_batch}",
                f"{_counted(in_turn(alone, session))}\n{_share(share['of_both'])}",
                _counted(result.taken[transport, "client"]["requests_per_s"]),
            )
    return table


def _latency(results: Sequence[Result]) -> Table:
    columns = ("served,\nh2load", "served,\ngrpcio", "transport\nalone", "session\nalone")
    table = _table("A lone request, microseconds (mean, p50, p99)", *columns)
    for result in results:
        for transport in result.transports:
            keys = (
                (transport, "lone served"),
                (transport, "lone grpcio client"),
                (transport, "lone empty"),
                ("session", "same batch"),
            )
            table.add_row(_asked(result, transport), *(_durations(result.taken[key]) for key in keys))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=SIMPLE, pad_edge=False)
    table.add_column("asked", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _asked(result: Result, transport: str) -> str:
    return f"{result.model}\n{result.images} a request\n{transport}"


def _counted(spread: Spread) -> str:
    return f"{spread.median:,.0f} {_noise(spread)}"


def _processor_time(figures: dict[str, Spread]) -> str:
    spent = figures["server_cpu_us"]
    return f"CPU {spent.median:,.0f} µs {_noise(spent)}"


def _share(spread: Spread) -> str:
    return f"{100 * spread.median:.0f}% ({100 * spread.lowest:.0f}-{100 * spread.highest:.0f})"


def _durations(figures: dict[str, Spread]) -> str:
    mean = figures["mean_us"]
    return (
        f"{mean.median:,.0f} {_noise(mean)}\np50 {figures['p50_us'].median:,.0f}\np99 {figures['p99_us'].median:,.0f}"
    )


def _noise(spread: Spread) -> str:
    """Half the range, as a share of the median."""
    return f"±{50 * (spread.highest - spread.lowest) / spread.median:.0f}%"


def _plain(result: Result) -> dict[str, Any]:
    figures: dict[str, dict[str, dict[str, Any]]] = {}
    for (subject, kind), spreads in result.taken.items():
        figures.setdefault(subject, {})[kind] = {name: _spread(spread) for name, spread in spreads.items()}
    for transport in result.transports:
        figures[transport]["ratios"] = {name: _spread(spread) for name, spread in ratios(result, transport).items()}
    return {
        "model": result.model,
        "images": result.images,
        "connections": result.concurrency.connections,
        "streams": result.concurrency.streams,
        "threads": result.threads,
        "best_batch": result.best_batch,
        **figures,
    }


def _spread(spread: Spread) -> dict[str, Any]:
    rounded = [float(f"{value:.5g}") for value in (spread.median, *spread.values)]
    return {"median": rounded[0], "rounds": rounded[1:]}
