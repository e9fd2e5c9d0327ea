"""``convserve completion``: a script that completes commands, options and files, from the commands' own parsers."""

import argparse
import sys
from collections.abc import Sequence

import shtab

from .commands import CLIENT, COMMANDS, Command, load, missing

SHELLS = {
    "bash": 'eval "$(convserve completion bash)" in ~/.bashrc',
    "zsh": 'convserve completion zsh > "${fpath[1]}/_convserve"',
    "fish": "convserve completion fish > ~/.config/fish/completions/convserve.fish",
}
"""The shells, and how each takes the script."""
PATHS = {"IMAGE": shtab.FILE, "FILE": shtab.FILE, "FilePath": shtab.FILE, "DIR": shtab.DIR, "Path": shtab.DIR}
"""What completes arguments that are shown by these names."""


def main(arguments: Sequence[str], prog: str) -> int:
    """Writes the script of one shell to standard output."""
    shell = make_parser(prog).parse_args(arguments).shell
    sys.stdout.write(shtab.complete(_tree(), shell) + "\n")
    return 0


def make_parser(prog: str) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog,
        description="Write a script that completes commands, options and files. Take it by:",
        epilog="\n".join(f"  {shell}: {how}" for shell, how in SHELLS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=sorted(SHELLS), help="for which shell")
    return parser


def _tree() -> argparse.ArgumentParser:
    """One parser with all commands below it."""
    top = argparse.ArgumentParser("convserve", description="Train, export and serve image classifiers.")
    top.add_argument("--version", action="store_true", help="print the version")
    commands = top.add_subparsers()
    for name, command in COMMANDS.items():
        whole = [_parser(name, command)] if not missing(command) else []
        below = commands.add_parser(name, help=command.about, parents=whole, add_help=not whole)
        _complete_paths(below)
    return top


def _parser(name: str, command: Command) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = load(command).make_parser(f"convserve {name}")
    if command.module == CLIENT:
        (choices,) = (action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))  # noqa: SLF001 - argparse has no other way in
        parser = choices[name]
    return parser


def _complete_paths(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:  # noqa: SLF001 - as above
        if action.metavar in PATHS:
            action.complete = PATHS[action.metavar]  # type: ignore[attr-defined] # shtab's
