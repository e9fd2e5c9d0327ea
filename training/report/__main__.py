"""`python -m training.report`: measure what models can do, and write a report beside each."""

import sys
from functools import partial

from rich.console import Console

from ..command import RUN, Parser, add_options, exit_status, use_files
from ..data import default_data_dir
from .write import redraw, write_all


def main(line: list[str] | None = None) -> int:
    """Run the command; gives the exit status: 0, 1 (a sentence says why), or 130 (interrupted)."""
    parser = Parser(
        prog=f"{RUN}.report",
        description="Measure exported models anew on their whole data sets, and write report.json, README.md and its "
        "figures beside each.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="models to measure (default: all that are there)")
    parser.add_argument(
        "--redraw", action="store_true", help="only write pages and figures again from all stored report.json"
    )
    add_options(parser, "--data-dir", "--models-dir", "--use")
    args = parser.parse_args(line)
    use_files(parser, args.use)
    if args.redraw:
        if args.names:
            parser.error("--redraw writes the pages of all models: name none")
        return exit_status(partial(redraw, args.models_dir), "pages that were finished are kept")
    console = Console(soft_wrap=True, highlight=False, markup=False)
    work = partial(write_all, args.names, args.models_dir, args.data_dir or default_data_dir(), console)
    return exit_status(work, "reports that were finished are kept")


if __name__ == "__main__":
    sys.exit(main())
