"""`python -m training.data`: download MNIST and CIFAR-10 through torchvision, and verify them."""

import sys
from http.client import HTTPException
from pathlib import Path

from ..command import RUN, Parser, add_options, exit_status, make_console
from ..errors import DataError
from . import LABELS, Dataset, default_data_dir, load


def download(name: str, data_dir: Path) -> Dataset:
    """Download one data set through torchvision where it is not there yet, then verify it as `load` does."""
    from torchvision import datasets

    kind = datasets.MNIST if name == "mnist" else datasets.CIFAR10
    try:
        kind(data_dir, download=True)
    except (RuntimeError, OSError, HTTPException) as error:
        raise DataError(
            f"{name} could not be downloaded to {data_dir.absolute()} ({error}); check the network, the free space and "
            f"that the folder can be written, or name a folder that already holds the data with --data-dir"
        ) from error
    return load(name, data_dir)


def main(line: list[str] | None = None) -> int:
    """Run the command; gives the exit status."""
    parser = Parser(prog=f"{RUN}.data", description="Download MNIST and CIFAR-10 through torchvision, and verify them.")
    parser.add_argument("name", nargs="?", choices=["mnist", "cifar10", "all"], default="all", help="default: all")
    add_options(parser, "--data-dir")
    args = parser.parse_args(line)
    folder: Path = args.data_dir or default_data_dir()

    def work() -> None:
        for name in LABELS if args.name == "all" else (args.name,):
            data = download(name, folder)
            make_console().print(
                f"{name}: {len(data.train_images):,} + {len(data.test_images):,} images, verified, "
                f"in {folder.absolute()}",
                soft_wrap=True,
            )

    return exit_status(work, "the same command fetches again what is not whole")


if __name__ == "__main__":
    sys.exit(main())
