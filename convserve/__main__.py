"""``convserve``: one command for all that there is to do."""

import sys
from collections.abc import Sequence

from . import __version__, commands

EXIT_NOT_INSTALLED = 1
EXIT_WRONG_ARGUMENTS = 2
EPILOG = """\
convserve COMMAND --help explains a command, and --version prints the version.
Options without a command are those of serve: convserve --port 9000
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Returns its exit code; 1 where an extra is missing, 2 where there is no such command."""
    line = list(sys.argv[1:] if arguments is None else arguments)
    first = line[0] if line else ""
    if first in ("-h", "--help"):
        sys.stdout.write(usage())
        return 0
    if first in ("-V", "--version"):
        sys.stdout.write(f"convserve {__version__}\n")
        return 0
    if first and not first.startswith("-"):
        del line[0]
    else:
        first = "serve"
    if first not in commands.COMMANDS:
        return _tell(f"there is no command {first!r}{_closest(first)} --help shows all", EXIT_WRONG_ARGUMENTS)
    try:
        return commands.run(first, line)
    except commands.NotInstalled as error:
        return _tell(str(error), EXIT_NOT_INSTALLED)


def usage() -> str:
    """What ``--help`` prints: each command in a line."""
    width = max(map(len, commands.COMMANDS))
    lines = ["usage: convserve [COMMAND] [OPTION ...]", "", "Train, export and serve image classifiers.", ""]
    for title, group in commands.GROUPS.items():
        lines += [f"{title}:", *(f"  {name:<{width}}  {command.about}" for name, command in group.items()), ""]
    return "\n".join(lines) + "\n" + EPILOG


def _closest(word: str) -> str:
    import difflib

    near = difflib.get_close_matches(word, commands.COMMANDS, n=1)
    return f"; did you mean {near[0]!r}?" if near else "."


def _tell(sentence: str, code: int) -> int:
    sys.stderr.write(f"convserve: {sentence}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
