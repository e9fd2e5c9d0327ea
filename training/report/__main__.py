"""`python -m training.report`: measure what models can do, and write a report beside each."""

import argparse
import sys
from functools import partial

from rich.console import Console

from training.command import add_options, exit_status
from training.data import default_data_dir
from training.report.write import write_all


def main(line: list[str] | None = None) -> int:
    """Run ``python -m training.report``; gives the exit status: 0, 1 (a sentence says why), or 130 (interrupted)."""
    parser = argparse.ArgumentParser(
        prog="python -m training.report",
        description="Measure exported models anew on their whole data sets, and write report.json, README.md and its "
        "figures beside each.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="models to measure (default: all that are there)")
    add_options(parser, "--data-dir", "--models-dir")
    args = parser.parse_args(line)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    work = partial(write_all, args.names, args.models_dir, args.data_dir or default_data_dir(), console)
    return exit_status(work, "reports that were finished are kept")


if __name__ == "__main__":
    sys.exit(main())
