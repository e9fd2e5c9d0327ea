"""How many requests a second the service answers, and how fast a lone one, beside two ceilings.

The ceilings are the same transport without a model, and the same session without a transport. All are
measured in turns within each round; figures are medians over the rounds, ratios are taken within a
round. Answers are compared with a direct run of the model before anything is measured.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.status import Status

from benchmarks import machine, report
from benchmarks.empty import TRANSPORTS
from benchmarks.errors import BenchmarkError
from benchmarks.rounds import Budget
from benchmarks.trial import Result, Setup, measure
from benchmarks.workload import Workload, open_model
from service.cores import usable_cores

PROGRAM = "python -m benchmarks.throughput"
SECONDS = 2.0
BARE_SHARE = 0.25
"""Part of the seconds that the bare session gets: it needs no load generator to settle."""
BARE_S = 0.2
"""Seconds of the bare session where the budget is in requests."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints tables and a JSON line; returns 0, or 1 with one sentence where it cannot be done."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves the with blocks: no server stays behind
    try:
        where = machine.describe(PROGRAM)
        results = _measure(options)
    except BenchmarkError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    report.show(where, results)
    record = report.record(where, results)
    print(record)
    if options.json is not None:
        report.write(options.json, record)
    return 0


def _measure(options: argparse.Namespace) -> list[Result]:
    """One result for each model and number of images."""
    setup = Setup(
        models_dir=options.models_dir,
        transports=tuple(TRANSPORTS) if options.transport == "both" else (options.transport,),
        providers=options.providers,
        threads=options.threads or usable_cores(),
        rounds=options.rounds,
        budget=Budget(options.seconds, options.requests),
        bare_s=BARE_S if options.requests else options.seconds * BARE_SHARE,
    )
    results = []
    with Console(stderr=True).status("opening the models") as status:
        opened = partial(open_model, providers=setup.providers, threads=setup.threads)
        for model in [opened(setup.models_dir, name, options.data_dir) for name in options.models]:
            for images in options.images:
                note = partial(_note, status, f"{model.name}, {images} a request")
                results.append(measure(Workload(model, images), setup, note))
    return results


def _note(status: Status, title: str, text: str) -> None:
    status.update(f"{title}: {text}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=__doc__,
        epilog="Needs h2load (package nghttp2-client), models, and the test pictures of MNIST and CIFAR-10. "
        "On a machine\nwith other work rates mean little: see benchmarks/README.md.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--models",
        type=_names,
        default=("mnist-tiny", "cifar10-cnn"),
        help="separated by commas (default: mnist-tiny,cifar10-cnn)",
    )
    parser.add_argument(
        "--images", type=_counts, default=(1, 64), help="images in a request, separated by commas (default: 1,64)"
    )
    parser.add_argument(
        "--transport", choices=[*TRANSPORTS, "both"], default="native", help="of the server (default: native)"
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--seconds", type=_seconds, default=SECONDS, help="load of one measurement (default: %(default)g s)"
    )
    length.add_argument(
        "--requests",
        type=_count,
        help="instead of seconds: one-image requests in a measurement; fewer where a request has more images",
    )
    parser.add_argument("--rounds", type=_count, default=5, help="each takes every measurement once (default: 5)")
    parser.add_argument(
        "--threads", type=_count, help="that compute one run, here and in the server (default: the usable cores)"
    )
    parser.add_argument("--providers", default="auto", help="as the server takes them (default: auto)")
    parser.add_argument("--models-dir", type=Path, default=Path("models"), help="default: models")
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=Path(os.environ.get("CONVSERVE_DATA_DIR", "data")),
        help="test pictures in torchvision's layout (default: CONVSERVE_DATA_DIR, or data)",
    )
    parser.add_argument("--json", type=_file, metavar="FILE", help="also write the JSON line to this file")
    return parser


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError("expected at least one name")
    return names


def _counts(text: str) -> tuple[int, ...]:
    return tuple(_count(part) for part in text.split(","))


def _count(text: str) -> int:
    if not (text.strip().isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected a whole number above zero, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 60:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, at most 60, not {text!r}")
    return seconds


def _file(text: str) -> Path:
    path = Path(text)
    if not path.parent.is_dir():  # said now, not when all has been measured
        raise argparse.ArgumentTypeError(f"the folder {path.parent} does not exist: make it, or name another")
    return path


if __name__ == "__main__":
    sys.exit(main())
