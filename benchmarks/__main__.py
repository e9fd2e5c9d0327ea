"""Measures what the service reaches beside its ceilings and under overload, and says which targets it meets.

Ratios are taken within one run, in turns; answers are compared with a direct run of the model before
anything is measured. The load generator shares the cores with the server.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import arguments, load, machine, page, report
from benchmarks.bench import Bench, Peers
from benchmarks.errors import BenchmarkError
from benchmarks.foreign import ENVIRONMENTS
from benchmarks.parts import PARTS
from benchmarks.progress import Progress
from benchmarks.section import Section
from service.cpu import usable_cores

PROGRAM = "python -m benchmarks"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints tables and a JSON line; returns 0, or 1 with one sentence where it cannot be done."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves the with blocks: no server stays behind
    try:
        where = machine.describe(PROGRAM)
        if options.page is not None:
            page.check()
        if any(PARTS[name].needs_h2load for name in options.only):
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
        page.write(options.page, where, sections, record)
    if options.json is not None:
        report.write(options.json, record + "\n")
    print(record)
    return 0


def _measure(options: argparse.Namespace) -> list[Section]:
    """One section for each part that was chosen."""
    named = {name: getattr(options, f"{name}_python") for name in ENVIRONMENTS}
    pythons = {name: python for name, python in named.items() if python is not None}
    with Progress(options.only) as progress, tempfile.TemporaryDirectory(prefix="convserve-benchmark-") as folder:
        bench = Bench(
            models_dir=options.models_dir,
            data_dir=options.data_dir,
            providers=options.providers,
            threads=usable_cores(),
            seconds=options.seconds,
            rounds=options.rounds,
            peers=Peers(pythons, options.triton),
            folder=Path(folder),
            note=progress.note,
        )
        sections = []
        for name in options.only:
            progress.begin(name)
            sections.append(PARTS[name].measure(bench))
        return sections


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=__doc__,
        epilog="parts:\n" + "\n".join(f"  {name:<12} {part.what}" for name, part in PARTS.items()) + "\n\n"
        "Needs h2load (package nghttp2-client), models, and the test pictures of MNIST and CIFAR-10. On a machine\n"
        "with other work rates mean little: see benchmarks/README.md.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", type=_parts, default=tuple(PARTS), metavar="PARTS", help="separated by commas (default: all)"
    )
    parser.add_argument(
        "--seconds", type=arguments.seconds, default=1.0, help="of one measurement, about (default: %(default)g s)"
    )
    parser.add_argument(
        "--rounds", type=arguments.count, default=5, help="each takes every measurement once (default: 5)"
    )
    parser.add_argument("--page", type=Path, metavar="FOLDER", help="write a page with plots into this folder")
    parser.add_argument("--json", type=arguments.file, metavar="FILE", help="also write the JSON line to this file")
    parser.add_argument("--providers", default="auto", help="as the server takes them (default: auto)")
    parser.add_argument("--models-dir", type=Path, default=Path("models"), help="default: models")
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=Path(os.environ.get("CONVSERVE_DATA_DIR", "data")),
        help="test pictures in torchvision's layout (default: CONVSERVE_DATA_DIR, or data)",
    )
    peers = parser.add_argument_group("peers, each left out unless it is named")
    for name, packages in ENVIRONMENTS.items():
        variable = f"CONVSERVE_{name.upper()}_PYTHON"
        peers.add_argument(
            f"--{name}-python",
            type=_program,
            default=os.environ.get(variable),
            metavar="FILE",
            help=f"the interpreter of an environment with {packages} (default: {variable})",
        )
    peers.add_argument("--triton", metavar="HOST:PORT", help="gRPC address of a Triton with the same models")
    return parser


def _parts(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in PARTS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"no part {', '.join(unknown) or repr(text)}; there are {', '.join(PARTS)}")
    return names


def _program(text: str) -> Path:
    path = Path(text).absolute()  # not resolved: an environment's interpreter is a link, and the link is what counts
    if not os.access(path, os.X_OK):
        raise argparse.ArgumentTypeError(f"{text} is no program that can be run: name an environment's bin/python")
    return path


if __name__ == "__main__":
    sys.exit(main())
