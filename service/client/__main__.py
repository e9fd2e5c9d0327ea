"""The command line: arguments in, exit code out, and a sentence where something goes wrong."""

import argparse
import io
import math
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from . import commands, inference, listing, top
from .connection import DEFAULT_TARGET, checked_target
from .dataset import TEST_SETS
from .errors import ClientError
from .tables import Output

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as a shell would report it
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE

_MAX_BATCH = 1024  # of CIFAR-10's images that is 3 MiB


def main(arguments: Sequence[str] | None = None, prog: str = "") -> int:
    """Run one command; ``prog`` is what the program is called, else as it was."""
    prog = prog or _called_as()
    args = make_parser(prog).parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be valid text
    try:
        code: int = args.run(args, Output())
        sys.stdout.flush()  # else the interpreter's end finds the broken pipe, and exits with a status of its own
    except ClientError as error:
        return _tell(prog, str(error), EXIT_FAILED)
    except KeyboardInterrupt:
        return _tell(prog, "interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        with suppress(OSError):  # what is still buffered goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _tell(prog, "the reader of the output went away before its end", EXIT_BROKEN_PIPE)
    return code


def _tell(prog: str, sentences: str, code: int) -> int:
    for sentence in sentences.splitlines():
        sys.stderr.write(f"{prog}: {sentence}\n")
    return code


def _called_as() -> str:
    name = Path(sys.argv[0]).name
    return f"python -m {__package__}" if name == "__main__.py" else name


def make_parser(prog: str) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Classify images, and run tensors, with the models of a convserve server.",
        epilog="Exit codes: 0 done; 1 something failed, or an image could not be used; 2 wrong arguments; "
        "130 interrupted; 141 broken pipe. Where the environment has CONVSERVE_TOKEN, calls carry it as their bearer "
        "token.",
    )
    _connection_arguments(parser, defaults=True)
    # The same arguments are taken before a command and after it; unset there, they leave the others alone.
    shared = argparse.ArgumentParser(add_help=False)
    _connection_arguments(shared, defaults=False)
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    classify = subparsers.add_parser(
        "classify",
        parents=[shared],
        help="tell what images show",
        description="Tell what images show: PNG, JPEG, WebP, BMP, GIF, TIFF or PPM files of any size.",
    )
    classify.add_argument("pictures", nargs="+", metavar="IMAGE", help="an image file; - is standard input")
    classify.add_argument(
        "--model", type=_text, required=True, metavar="NAME", help="model to ask; `list` shows the names"
    )
    _version_argument(classify)
    classify.add_argument(
        "--top-k", type=_count, default=3, metavar="K", help="classes for each image (default: %(default)s)"
    )
    classify.add_argument("--logits", action="store_true", help="give the logits too; in JSON those of all classes")
    classify.add_argument(
        "--no-shrink",
        dest="shrink",
        action="store_false",
        help="send every file as it is (default: a JPEG of more than 4 MiB is decoded here, at a reduced size as the "
        "server would)",
    )
    _json_argument(classify)
    classify.set_defaults(run=commands.classify)

    models = subparsers.add_parser(
        "list",
        parents=[shared],
        help="show the models",
        description="Show every model: those that classify images, those of tensors with their inputs and outputs, and "
        "those that are not served with the reason.",
    )
    _json_argument(models)
    models.set_defaults(run=listing.list_models)

    infer = subparsers.add_parser(
        "infer",
        parents=[shared],
        help="run a model on tensors",
        description="Run any served model on tensors from .npy files; `list` shows the inputs of tensor models.",
    )
    infer.add_argument("model", type=_text, metavar="MODEL", help="model to ask")
    infer.add_argument(
        "--input",
        type=_named_file,
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="an input, and the .npy file with its tensor; once for each input",
    )
    infer.add_argument(
        "--output",
        type=_name_and_file,
        action="append",
        default=[],
        metavar="NAME[=FILE]",
        help="an output that is wanted, and the .npy file to write it to (default: all outputs, shown)",
    )
    _version_argument(infer)
    _json_argument(infer)
    infer.set_defaults(run=inference.infer)

    dataset = subparsers.add_parser(
        "dataset",
        parents=[shared],
        help="measure a model on a real test set",
        description="Send a test set or a folder of images to the server; measure accuracy, throughput and latency.",
    )
    dataset.add_argument(
        "dataset",
        type=_test_set,
        help=f"{' or '.join(sorted(TEST_SETS))}, or a folder with a folder of images for each class of the model",
    )
    dataset.add_argument(
        "--model",
        metavar="NAME",
        help="model to ask (default: the one named as the data set, or the only one trained on it)",
    )
    dataset.add_argument("--limit", type=_count, metavar="N", help="only the first N images (default: all)")
    dataset.add_argument(
        "--data-dir",
        type=Path,
        default=Path(os.environ.get("CONVSERVE_DATA_DIR", "data")),
        metavar="DIR",
        help="folder with the data sets, as torchvision lays them out (env CONVSERVE_DATA_DIR, now: %(default)s)",
    )
    dataset.add_argument(
        "--no-download", action="store_true", help="fetch no test set that is missing (default: it is fetched)"
    )
    dataset.add_argument(
        "--data-mirror",
        type=_url,
        default=os.environ.get("CONVSERVE_DATA_MIRROR"),
        metavar="URL",
        help="folder with the test sets' archives (env CONVSERVE_DATA_MIRROR; default: where they are published)",
    )
    dataset.add_argument(
        "--batch",
        type=_batch,
        default=64,
        metavar="N",
        help=f"images a call, at most {_MAX_BATCH} (default: 64)",
    )
    dataset.add_argument(
        "--concurrency", type=_count, default=4, metavar="N", help="calls at once (default: %(default)s)"
    )
    _json_argument(dataset)
    dataset.set_defaults(run=commands.dataset)

    live = subparsers.add_parser(
        "top",
        parents=[shared],
        help="show what the models do now",
        description="Show rates, latencies, batch sizes and errors of each model, from ModelStatistics.",
    )
    live.add_argument(
        "--metrics",
        type=_text,
        metavar="URL",
        help="read /metrics there instead, or at HOST:PORT: percentiles, queue and refusals too",
    )
    live.add_argument(
        "--interval-s", type=_seconds, default=2.0, metavar="S", help="time between two readings (default: %(default)s)"
    )
    live.add_argument("--once", action="store_true", help="write one interval, and end")
    _json_argument(live)
    live.set_defaults(run=top.run)
    return parser


def _connection_arguments(parser: argparse.ArgumentParser, *, defaults: bool) -> None:
    def default(value: object) -> object:
        return value if defaults else argparse.SUPPRESS

    group = parser.add_argument_group("server")
    address = os.environ.get("CONVSERVE_ADDRESS", DEFAULT_TARGET)
    shown = address.replace("%", "%%")  # argparse formats help with %
    group.add_argument(
        "--address",
        type=_address,
        default=default(address),
        metavar="HOST:PORT",
        help=f"where the server listens (env CONVSERVE_ADDRESS, now: {shown})",
    )
    group.add_argument(
        "--timeout-s", type=_seconds, default=default(30.0), metavar="S", help="time limit of a call (default: 30)"
    )
    tls = group.add_mutually_exclusive_group()
    tls.add_argument(
        "--tls", action="store_true", default=default(value=False), help="encrypt, and trust the system's authorities"
    )
    tls.add_argument(
        "--tls-ca", dest="tls", metavar="FILE", default=argparse.SUPPRESS, help="encrypt, and trust those in a PEM file"
    )


def _json_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="write one JSON document instead of a table")


def _version_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--version", type=_text, default="", metavar="N", help="version of the model (default: the highest)"
    )


def _positive(number: Callable[[str], float], what: str) -> Callable[[str], float]:
    """Make an argument type for numbers above zero, described by ``what``."""

    def parse(text: str) -> float:
        try:
            value = number(text)
        except ValueError:
            value = 0
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"expected {what} above 0, not '{text}'")
        return value

    return parse


_count = _positive(int, "a whole number")
_seconds = _positive(float, "a number")


def _test_set(text: str) -> str:
    """A test set's name, or a folder."""
    if text not in TEST_SETS and not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"expected {', '.join(sorted(TEST_SETS))} or a folder of images, not '{text}'")
    return text


def _address(text: str) -> str:
    try:
        return checked_target(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _text(argument: str) -> str:
    """Refuse bytes that are no text: a message cannot hold them."""
    if not argument.isprintable():
        raise argparse.ArgumentTypeError(f"expected text, not {argument!a}")
    return argument


def _named_file(argument: str) -> tuple[str, str]:
    """Split ``NAME=FILE``."""
    name, _, file = argument.partition("=")
    if not name or not file:
        raise argparse.ArgumentTypeError(f"expected NAME=FILE, not {argument!a}")
    return _text(name), file


def _name_and_file(argument: str) -> tuple[str, str]:
    """Split ``NAME=FILE`` or take ``NAME``, whose file is empty then."""
    return _named_file(argument) if "=" in argument else (_text(argument), "")


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"expected the URL of a folder, https://…, not '{text}'")
    return text


def _batch(text: str) -> float:
    count = _count(text)
    if count > _MAX_BATCH:
        raise argparse.ArgumentTypeError(f"a call takes at most {_MAX_BATCH} images, not {text}")
    return count


if __name__ == "__main__":
    sys.exit(main())
