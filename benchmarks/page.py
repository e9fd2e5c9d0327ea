"""The page of results: a folder with README.md, its plots, and results.json."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.errors import BenchmarkError
from benchmarks.machine import BUSY_LOAD
from benchmarks.section import Section, Table

MARKS = {"yes": "✓", "no": "✗"}


def check() -> None:
    """Raises BenchmarkError where plots cannot be drawn: said before anything is measured."""
    try:
        import matplotlib  # noqa: F401 - only whether it is there
    except ImportError:
        raise BenchmarkError("--page needs matplotlib: install it with the extra 'train'") from None


def write(folder: Path, where: Mapping[str, Any], sections: Sequence[Section], record: str) -> None:
    """Makes the folder where it is missing, and replaces the files of an earlier run by the same names."""
    from benchmarks.plots import draw

    folder.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for plot in section.plots:
            report.write(folder / f"{plot.name}.png", draw(plot))
    report.write(folder / "results.json", record + "\n")
    report.write(folder / "README.md", "\n".join(_lines(where, sections)) + "\n")


def _lines(where: Mapping[str, Any], sections: Sequence[Section]) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    lines = [
        "# Results of the benchmarks",
        "",
        (
            f"{where['date']}, {where['cores']} cores of {where['machine']}, {where['system']}, the load generator on "
            f"the same cores; load average {where['load_average']} before the start; it took {where['minutes']} "
            "minutes."
        ),
        "",
        f"Made with `{where['command']}`; every round is in [results.json](results.json). Versions: {versions}.",
        "",
    ]
    if where["environment"]:
        lines += [f"Environment: {', '.join(f'`{k}={v}`' for k, v in where['environment'].items())}.", ""]
    if where["load_average"] > BUSY_LOAD:
        lines += [f"**{report.BUSY}**", ""]
    lines += [
        (
            "Figures are medians over the rounds, in brackets the lowest and the highest, or ± half the range as a "
            "share of the median. Ratios are those of figures of one round. [How it is measured](../README.md)."
        ),
        "",
    ]
    table = report.targets(sections)
    rows = [[*row[:3], MARKS.get(row[3], ""), row[4]] for row in table.rows]
    if rows:
        lines += ["## Targets", "", *_table(Table(table.title, table.columns, rows)), ""]
    for section in sections:
        lines += [f"## {section.title}", "", f"`python -m benchmarks --only {section.name}`", ""]
        for remark in section.remarks:
            lines += [remark, ""]
        for each in section.tables:
            lines += [f"**{each.title}**", "", *_table(each), ""]
        for plot in section.plots:
            lines += [f"![{plot.title}: {plot.y} over {plot.x}]({plot.name}.png)", ""]
    return lines[:-1]


def _table(table: Table) -> list[str]:
    words = tuple(table.columns) == report.TARGETS
    aligned = ["---" if words or not number else "---:" for number in range(len(table.columns))]
    return [
        f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in (table.columns, aligned, *table.rows)
    ]
