"""Each execution provider that runs here, as it can be set: exact or not, and images per second.

For each model and setting: the largest deviation of a logit, and the predictions that differ, from the float32 file on
the CPU's provider, over test images; then images per second for several batch sizes, three times: `bare`, ONNX
Runtime's session with the same options; `session`, the service's own, with its buckets and buffers; `served`, through a
server of its own and grpcio's client in this process, several requests at a time. With small batches that client is the
limit of `served`, not the server.

Variants in float16 are models/NAME-fp16, which `python -m training.export NAME --precision fp16` makes.
A setting that fails is told, and the others go on.
"""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import arguments, machine, report
from benchmarks.errors import BenchmarkError
from benchmarks.providers.models import Model, fp16, open_model
from benchmarks.providers.settings import SETTINGS, Setting
from benchmarks.providers.trial import Budget, Result, Trial
from service.cpu import usable_cores
from service.errors import ProviderUnavailable

PROGRAM = "python -m benchmarks.providers"
MODELS = ("mnist-tiny", "mnist-deep", "cifar10-tiny", "cifar10-lenet", "cifar10-cnn")
BATCHES = (1, 8, 64, 256, 1024)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints tables and a JSON line; returns 0, or 1 where a setting failed or is not exact."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves the with blocks: no server stays behind
    budget = {"threads": options.threads, "seconds": options.seconds, "in_flight": options.in_flight}
    where, results = {**machine.describe(PROGRAM), **budget}, list[Result]()
    try:
        for result in _measure(options):
            results.append(result)
            if options.json is not None:  # at once: time on a machine with a GPU is dear
                report.write(options.json, _record(where, results) + "\n")
    except BenchmarkError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    _show(results, options.batches)
    print(_record(where, results))
    failed = [result for result in results if result.refused and (result.model != "all" or options.settings)]
    inexact = [result for result in results if not result.refused and not result.exact]
    for result in inexact:
        print(f"{PROGRAM}: {result.model} on {result.setting} is off by {result.deviation:.3g}", file=sys.stderr)
    return 1 if failed or inexact else 0


def _measure(options: argparse.Namespace) -> Iterator[Result]:
    budget = Budget(options.batches, options.seconds, 0 if options.no_served else options.in_flight, options.threads)
    absent: set[str] = set()
    with Console(stderr=True).status("opening the models") as status:
        for name in options.models:
            model = open_model(
                options.models_dir, name, options.data_dir, images=options.images, threads=options.threads
            )
            for setting in (SETTINGS[name] for name in options.settings or SETTINGS):
                if setting.provider not in absent:
                    result = _try(model, setting, budget, status.update)
                    if result.model == "all":
                        absent.add(setting.provider)
                    yield result


def _try(model: Model, setting: Setting, budget: Budget, note: Callable[[str], None]) -> Result:
    try:
        path = fp16(model) if setting.variant == "fp16" else model.path
        return Trial(model, setting, path, budget, note).measure()
    except ProviderUnavailable as error:
        return Result("all", setting.name, refused=str(error))
    except Exception as error:
        # What ONNX Runtime raises has no common base; whatever it is, the other settings are not to be lost for it.
        return Result(model.name, setting.name, refused=f"{type(error).__name__}: {error}")


def _show(results: Sequence[Result], batches: Sequence[int]) -> None:
    console = Console()
    console.width = max(console.width, report.TERMINAL_WIDTH)
    for model in dict.fromkeys(result.model for result in results if not result.refused):
        table = Table("setting", "off by", "allowed", "predictions", "load s", "images/s", title=model)
        for batch in batches:
            table.add_column(str(batch), justify="right")
        for result in (result for result in results if result.model == model and not result.refused):
            facts = [
                *(result.setting, f"{result.deviation:.2g}", f"{result.allowed:.2g}"),
                *(f"{result.other_predictions} of {result.images} differ", f"{result.load_s:.1f}"),
            ]
            for way, rates in result.images_per_s.items():
                table.add_row(*facts, way, *(f"{rates[batch]:,.0f}" for batch in batches))
                facts = [""] * len(facts)
        console.print(table)
    for result in results:
        if result.refused:
            console.print(f"{result.model} on {result.setting}: {result.refused}", markup=False, highlight=False)


def _record(where: dict[str, Any], results: Sequence[Result]) -> str:
    return json.dumps({"machine": where, "results": [vars(result) for result in results]})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    count, seconds = arguments.count, arguments.seconds
    settings = arguments.chosen("setting", SETTINGS)
    parser.add_argument(
        "--models", type=arguments.names, default=MODELS, help=f"float32 models (default: {','.join(MODELS)})"
    )
    parser.add_argument("--settings", type=settings, default=(), help="each must run (default: all that do)")
    parser.add_argument("--batches", type=_counts, default=BATCHES, help="images in a run (default: 1,8,64,256,1024)")
    parser.add_argument("--images", type=count, default=2000, help="compared for parity (default: %(default)s)")
    parser.add_argument("--seconds", type=seconds, default=0.5, help="of one measurement (default: %(default)s)")
    parser.add_argument("--in-flight", type=count, default=16, help="requests at a time (default: %(default)s)")
    parser.add_argument("--no-served", action="store_true", help="leave out the servers")
    parser.add_argument("--threads", type=count, default=usable_cores(), help="of the CPU (default: the usable cores)")
    arguments.add_common(parser)
    return parser


def _counts(text: str) -> tuple[int, ...]:
    return tuple(arguments.count(part) for part in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
