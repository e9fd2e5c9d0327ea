"""`python -m training.data`: download the data sets, and verify them."""

import sys
from http.client import HTTPException
from pathlib import Path

from ..command import RUN, Parser, add_options, exit_status, make_console, use_files
from ..errors import DataError
from . import SOURCES, Dataset, default_data_dir, load


def download(name: str, data_dir: Path) -> Dataset:
    """Download one data set where it is not there yet, then verify it as `load` does."""
    try:
        SOURCES[name].download(data_dir)
    except (RuntimeError, OSError, HTTPException) as error:
        raise DataError(
            f"{name} could not be downloaded to {data_dir.absolute()} ({error}); check the network, the free space and "
            f"that the folder can be written, or name a folder that already holds the data with --data-dir"
        ) from error
    return load(name, data_dir)


def main(line: list[str] | None = None) -> int:
    """Run the command; gives the exit status."""
    parser = Parser(prog=f"{RUN}.data", description="Download MNIST and CIFAR-10 through torchvision, and verify them.")
    parser.add_argument("name", nargs="?", default="all", help="mnist, cifar10, all (default), or one of --use")
    add_options(parser, "--data-dir", "--use")
    args = parser.parse_args(line)
    use_files(parser, args.use)
    if args.name not in (*SOURCES, "all"):
        parser.error(f"there is no data set {args.name!r}; there are {', '.join(SOURCES)}, and all")
    folder: Path = args.data_dir or default_data_dir()

    def work() -> None:
        for name in SOURCES if args.name == "all" else (args.name,):
            data = download(name, folder)
            make_console().print(
                f"{name}: {len(data.train_images):,} + {len(data.test_images):,} images, verified, "
                f"in {folder.absolute()}",
                soft_wrap=True,
            )

    return exit_status(work, "the same command fetches again what is not whole")


if __name__ == "__main__":
    sys.exit(main())
