"""``convserve serve``, or ``python -m service``: the server's command."""

import os
import signal
import sys
from argparse import ArgumentParser
from collections.abc import Sequence

PROG = f"python -m {__package__}"


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Runs the server. Returns 0 after SIGTERM or SIGINT with all answered, 1 otherwise, 2 for bad settings."""
    # Before the imports, which take a while: a container's process 1 has no other handler.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from .process import command

    return command.run(arguments, prog)


def make_parser(prog: str) -> ArgumentParser:
    """The command line."""
    from .options import make_parser
    from .settings import Settings

    return make_parser(Settings, prog)


def _end(_number: int, _frame: object) -> None:
    os._exit(0)  # nothing is served yet


if __name__ == "__main__":
    sys.exit(main())
