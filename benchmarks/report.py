"""Results as tables for people, on the terminal or on a page, and as one JSON line for machines."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.machine import BUSY_LOAD
from benchmarks.samples import Spread
from benchmarks.section import Section, Table

TERMINAL_WIDTH, PAGE_WIDTH = 120, 1000
"""Columns that the tables need; on a page no cell is wrapped."""
TARGETS = ("measured", "target", "median (lowest to highest)", "met", "from")
BUSY = "Other work ran on this machine: rates are too low and ratios range widely. CPU is the steadiest figure."


def show(where: dict[str, Any], sections: Sequence[Section]) -> None:
    """Prints where and when, the tables of the scenarios, and the targets last."""
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, TERMINAL_WIDTH)
    console.print(_where(where))
    for section in sections:
        for table in section.tables:
            console.print(_rich(table, box.SIMPLE, f"{section.title}. {table.title}"))
        for remark in section.remarks:
            console.print(f"{section.title}: {remark}")
    if any(section.lines for section in sections):
        console.print(_rich(_targets(sections), box.SIMPLE, "Targets"))


def write_page(folder: Path, where: dict[str, Any], sections: Sequence[Section]) -> None:
    """Writes README.md, the tables in Markdown, and results.json into the folder, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    with io.StringIO() as text:
        console = Console(file=text, highlight=False, markup=False, width=PAGE_WIDTH)
        console.print(f"# Results of the benchmarks\n\n{_where(where)}\n")
        console.print(f"Made with `{where['command']}`; every round is in [results.json](results.json).")
        console.print("[How it is measured](../README.md). ± is half the range as a share of the median.\n\n## Targets")
        console.print(_rich(_targets(sections), box.MARKDOWN))
        for section in sections:
            console.print(f"## {section.title}\n\n`python -m benchmarks --only {section.name}`\n")
            for remark in section.remarks:
                console.print(f"{remark}\n")
            for table in section.tables:
                console.print(f"**{table.title}**")
                console.print(_rich(table, box.MARKDOWN))
        write(folder / "README.md", "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines()))
    write(folder / "results.json", record(where, sections) + "\n")


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


def write(path: Path, text: str) -> None:
    """Writes the file, whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _where(where: dict[str, Any]) -> str:
    busy = f"\n\n{BUSY}" if where["load_average"] > BUSY_LOAD else ""
    return (
        f"{where['date']}, {where['machine']}, {where['cores']} cores with the load generator on them, "
        f"load average {where['load_average']} before the start. "
        f"Python {where['versions']['python']}; request path: {where['versions']['request_path']}.{busy}"
    )


def _targets(sections: Sequence[Section]) -> Table:
    """Every figure that has a target or stands for itself."""
    rows = [
        (line.what, line.target, line.measured, {True: "yes", False: "no", None: ""}[line.met], line.because)
        for section in sections
        for line in section.lines
    ]
    return Table("Targets", TARGETS, rows)


def _rich(table: Table, lines: box.Box, title: str | None = None) -> RichTable:
    shown = RichTable(title=title, box=lines, pad_edge=lines is box.MARKDOWN)
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
