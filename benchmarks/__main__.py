"""Measures what the service reaches beside its ceilings and under overload, and says which targets it meets.

Ratios are taken within one run, in turns; responses are compared with a direct run of the model before anything is
measured. The load generator shares the cores with the server.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import arguments, load, machine, report
from benchmarks.bench import Bench
from benchmarks.errors import BenchmarkError
from benchmarks.scenarios import SCENARIOS
from benchmarks.section import Section
from service.cpu import usable_cores

PROGRAM = "python -m benchmarks"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints tables and a JSON line; returns 0, or 1 with one sentence where it cannot be done."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves the with blocks: no server stays behind
    try:
        where = machine.describe(PROGRAM)
        if any(SCENARIOS[name].needs_h2load for name in options.only):
            load.find()
        started = time.monotonic()
        sections = _measure(options)
        where["minutes"] = round((time.monotonic() - started) / 60, 1)
    except BenchmarkError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    report.show(where, sections)
    record = report.record(where, sections)
    if options.page is not None:
        report.write_page(options.page, where, sections)
    if options.json is not None:
        report.write(options.json, record + "\n")
    print(record)
    return 0


def _measure(options: argparse.Namespace) -> list[Section]:
    """Measures the chosen scenarios, one section for each."""
    console, sections = Console(stderr=True, highlight=False), list[Section]()
    with tempfile.TemporaryDirectory(prefix="convserve-benchmark-") as folder:
        bench = Bench(
            models_dir=options.models_dir,
            data_dir=options.data_dir,
            providers=options.providers,
            threads=usable_cores(),
            seconds=options.seconds,
            rounds=options.rounds,
            mlserver=options.mlserver_python,
            triton=options.triton,
            folder=Path(folder),
            # One line that is written over: a display that redraws itself would run while we measure.
            note=lambda text: console.print(text, end="\x1b[K\r", no_wrap=True) if console.is_terminal else None,
        )
        for number, name in enumerate(options.only, 1):
            console.print(f"scenario {number} of {len(options.only)}: {name}")
            sections.append(SCENARIOS[name].measure(bench))
    return sections


def _parser() -> argparse.ArgumentParser:
    scenarios = "\n".join(f"  {name:<12} {scenario.what}" for name, scenario in SCENARIOS.items())
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=__doc__,
        epilog=f"scenarios:\n{scenarios}\n\n"
        "Needs h2load (package nghttp2-client), models, and the test images of MNIST and CIFAR-10. On a machine\n"
        "with other work rates mean little: see benchmarks/README.md.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only",
        type=arguments.chosen("scenario", SCENARIOS),
        default=tuple(SCENARIOS),
        metavar="SCENARIOS",
        help="separated by commas (default: all)",
    )
    parser.add_argument(
        "--seconds", type=arguments.seconds, default=1.0, help="of one measurement, about (default: %(default)g s)"
    )
    parser.add_argument(
        "--rounds", type=arguments.count, default=5, help="each takes every measurement once (default: 5)"
    )
    parser.add_argument("--page", type=Path, metavar="FOLDER", help="write a page and its JSON into this folder")
    parser.add_argument("--providers", default="auto", help="as the server takes them (default: auto)")
    arguments.add_common(parser)
    rivals = parser.add_argument_group("rivals, each left out unless it is named")
    rivals.add_argument(
        "--mlserver-python",
        type=arguments.program,
        default=os.environ.get("CONVSERVE_MLSERVER_PYTHON"),
        metavar="FILE",
        help="the interpreter of an environment with mlserver and onnxruntime (default: CONVSERVE_MLSERVER_PYTHON)",
    )
    rivals.add_argument("--triton", metavar="HOST:PORT", help="gRPC address of a Triton with the same models")
    return parser


if __name__ == "__main__":
    sys.exit(main())
