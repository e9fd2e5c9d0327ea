"""``convserve tune MODEL``: measures how a model's runs are best made on this machine's CPU, for its server.

Prints a table, and writes ``tuning.json`` beside the model. The server reads it, and ignores it with a warning where
the file, the processor, the number of threads or ONNX Runtime is another. Measure on a quiet machine: what others run
makes runs longer. Each time is the fastest of several.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from .cpu import usable_cores
from .errors import StartError
from .runtime import providers, tuning
from .runtime.execution_provider import Cpu
from .runtime.model_folder import model_path
from .runtime.runner import DirectRunner
from .runtime.session import Session
from .runtime.tuning import Tuning
from .settings import Settings

PROG = f"python -m {__package__}.tune"
JOINED_US = 1_250.0
"""What a run of many small requests may take: longer ones gain little, and the first request waits for the last."""
WORTH = 1.05
"""So many times faster must runs side by side be to pay for a second session."""
NEARLY = 0.95
"""Of the most rows/s, what a run of more requests must reach."""
TRIES, TRY_S = 20, 0.2
"""Runs of which the fastest counts, and what they may take."""
SIDE_BY_SIDE_RUNS = 10
"""Of each thread."""


@dataclass(frozen=True)
class Timed:
    """Microseconds of runs of so many rows."""

    rows: int
    one_thread_us: float
    all_threads_us: float
    side_by_side_us: float
    """Of a run by one thread among as many as there are threads, divided by their number."""


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Measures one model. Returns 0, 1 where it cannot be measured, 2 for bad arguments."""
    args = make_parser(prog).parse_args(arguments)
    console = Console(stderr=True)
    provider = Cpu()
    try:
        path = model_path(args.models_dir, args.model, args.version)
        session = Session(path, (provider,), threads=args.threads, max_batch_rows=args.max_batch_rows)
        if not session.spec.batches:
            reason = session.spec.unbatched_reason
            raise StartError(f"there is nothing to choose: its requests do not share a run, because {reason}")
        with Progress(console=console) as progress:
            timed = _measure(session, path, args.threads, args.max_batch_rows, progress)
        chosen = choose(timed, args.threads, min(provider.preferred_batch_size or 1, args.max_batch_rows))
        _show(timed, chosen, args.model)
        if not args.dry_run:
            runs = [asdict(times) for times in timed]
            written = tuning.write(path, provider.name, args.threads, chosen, runs)
            console.print(f"written: {written}; servers that start from now on use it", highlight=False)
    except (StartError, OSError) as error:
        console.print(f"{prog}: {error}", highlight=False, soft_wrap=True)
        return 1
    return 0


def choose(timed: Sequence[Timed], threads: int, least: int) -> Tuning:
    """What these times speak for; up to ``least`` rows are joined in any case."""
    one_thread_rows = 0
    for times in timed:
        if threads == 1 or times.one_thread_us > times.all_threads_us:
            break
        one_thread_rows = times.rows
    at_least = next((times for times in timed if times.rows >= least), timed[-1])
    side_by_side = threads > 1 and at_least.side_by_side_us * WORTH < at_least.all_threads_us
    us = {times.rows: times.side_by_side_us if side_by_side else times.all_threads_us for times in timed}
    most = max(rows / us[rows] for rows in us if rows >= at_least.rows)
    joined = [
        times.rows
        for times in timed
        if times.rows > at_least.rows
        and (times.one_thread_us if side_by_side else times.all_threads_us) <= JOINED_US
        and times.rows / us[times.rows] >= NEARLY * most
    ]
    return Tuning(
        preferred_batch_size=max(joined, default=at_least.rows),
        one_thread_rows=one_thread_rows,
        instance_count=threads if side_by_side else 1,
    )


def _measure(session: Session, path: Path, threads: int, max_batch_rows: int, progress: Progress) -> list[Timed]:
    """Times of 1, 2, 4 … rows and of the most."""
    one, several = (
        DirectRunner(providers.open_session(path, (Cpu(),), count), session.spec.inputs, session.spec.outputs)
        for count in (1, threads)
    )
    sizes = [2**power for power in range(max_batch_rows.bit_length()) if 2**power < max_batch_rows] + [max_batch_rows]
    timed = []
    with ThreadPoolExecutor(threads) as pool:
        for rows in progress.track(sizes, description="measuring"):
            inputs = session.zeros(rows)
            one_us = _fastest_us(partial(one.run, inputs))
            several_us = _fastest_us(partial(several.run, inputs))
            beside_us = _fastest_us(partial(_run_side_by_side, pool, threads, partial(one.run, inputs)))
            timed.append(Timed(rows, one_us, several_us, round(beside_us / threads / SIDE_BY_SIDE_RUNS, 1)))
    return timed


def _run_side_by_side(pool: ThreadPoolExecutor, threads: int, run: Callable[[], object]) -> None:
    """Many runs in each of the threads."""

    def run_many(_: int) -> None:
        for _ in range(SIDE_BY_SIDE_RUNS):
            run()

    list(pool.map(run_many, range(threads)))


def _fastest_us(run: Callable[[], object]) -> float:
    """Microseconds of the fastest of several runs, after one that plans its memory."""
    run()
    fastest, ends = float("inf"), time.perf_counter() + TRY_S
    for _ in range(TRIES):
        started = time.perf_counter()
        run()
        now = time.perf_counter()
        fastest = min(fastest, now - started)
        if now > ends:
            break
    return round(fastest * 1e6, 1)


def _show(timed: Sequence[Timed], chosen: Tuning, model: str) -> None:
    table = Table(title=f"{model}: microseconds of a run", title_justify="left")
    for heading in ("rows", "one thread", "all threads", "side by side, each", "rows/s"):
        table.add_column(heading, justify="right")
    for times in timed:
        best = min(times.all_threads_us, times.side_by_side_us)
        numbers = (times.one_thread_us, times.all_threads_us, times.side_by_side_us, times.rows / best * 1e6)
        table.add_row(str(times.rows), *(f"{number:,.0f}" for number in numbers))
    console = Console()
    console.print(table)
    for name, value in asdict(chosen).items():
        console.print(f"{name:<22}{value}", highlight=False)


def make_parser(prog: str) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog,
        description="Measures how a model's runs are best made on this machine's CPU, and writes it beside the model.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("model", help="name of the model in the models folder")
    parser.add_argument("--version", default="", help="which version; none: the highest")
    parser.add_argument("--models-dir", type=Path, default=Settings().models_folder, help="folder of models")
    parser.add_argument("--threads", type=_whole, default=usable_cores(), help="threads of the server, or of a worker")
    parser.add_argument(
        "--max-batch-rows", type=_whole, default=Settings.max_batch_rows, help="most rows in a run, as for the server"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the table, and write nothing")
    return parser


def _whole(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number above zero, not {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
