"""Results as tables for people and as one JSON line for machines."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.machine import BUSY_LOAD
from benchmarks.samples import Spread
from benchmarks.section import Section, Table

LEAST_WIDTH = 120
"""Columns that the tables need."""
TARGETS = ("measured", "target", "median (lowest to highest)", "met", "from")
BUSY = (
    "Other work ran on this machine: rates are too low, ratios range widely, and what they say is doubtful; CPU is "
    "the steadiest figure."
)


def targets(sections: Sequence[Section]) -> Table:
    """Every figure that has a target or stands for itself."""
    rows = [
        (line.what, line.target, line.measured, {True: "yes", False: "no", None: ""}[line.met], line.because)
        for section in sections
        for line in section.lines
    ]
    return Table("Targets", TARGETS, rows)


def show(where: dict[str, Any], sections: Sequence[Section]) -> None:
    """Prints where and when, the tables of the parts, and the targets last."""
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, LEAST_WIDTH)
    console.print(
        f"{where['date']}, {where['machine']}, {where['cores']} cores with the load generator on them, "
        f"load average {where['load_average']} before the start"
    )
    if where["load_average"] > BUSY_LOAD:
        console.print(BUSY, style="bold")
    for section in sections:
        for table in section.tables:
            console.print(_rich(table, f"{section.title}. {table.title}"))
        for remark in section.remarks:
            console.print(f"{section.title}: {remark}")
    if any(section.lines for section in sections):
        console.print(_rich(targets(sections), "Targets"))


def record(where: dict[str, Any], sections: Sequence[Section]) -> str:
    """Everything as one line of JSON."""
    results = {
        section.name: {
            "targets": [
                {"what": line.what, "target": line.target, "unit": line.unit, "met": line.met, **_plain(line.value)}
                for line in section.lines
            ],
            "figures": _plain(section.figures),
            "remarks": list(section.remarks),
        }
        for section in sections
    }
    return json.dumps({"benchmark": "suite", **where, "results": results})


def write(path: Path, text: str | bytes) -> None:
    """Writes the file, whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(text.encode() if isinstance(text, str) else text)
    temporary.replace(path)


def _rich(table: Table, title: str) -> RichTable:
    shown = RichTable(title=title, box=SIMPLE, pad_edge=False)
    for number, column in enumerate(table.columns):
        shown.add_column(column, justify="right" if number and table.columns != TARGETS else "left")
    for row in table.rows:
        shown.add_row(*row)
    return shown


def _plain(value: Any) -> Any:
    """Spreads as medians beside the value of each round, everything else as it is."""
    if isinstance(value, Spread):
        rounded = [float(f"{each:.5g}") for each in (value.median, *value.values)]
        return {"median": rounded[0], "rounds": rounded[1:]}
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    return value
