"""``convserve tokens``: makes bearer tokens for a server's tokens file."""

import argparse
import hashlib
import json
import secrets
import sys
from collections.abc import Sequence

from .access.tokens import RIGHTS

PROG = f"python -m {__package__}.tokens"
TOKEN_BYTES = 32


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Makes one token: its entry goes to standard output, the token itself to standard error."""
    args = make_parser(prog).parse_args(arguments)
    token = secrets.token_urlsafe(TOKEN_BYTES)
    lines = [
        "[[tokens]]",
        f"name = {json.dumps(args.name)}",
        f'sha256 = "{hashlib.sha256(token.encode()).hexdigest()}"',
        f"rights = {json.dumps(args.rights)}",
        *([] if args.requests_per_s is None else [f"requests_per_s = {args.requests_per_s:g}"]),
        *([] if args.max_in_flight is None else [f"max_in_flight = {args.max_in_flight}"]),
    ]
    sys.stdout.write("\n".join(lines) + "\n\n")
    sys.stderr.write(f"{token}\n")
    return 0


def make_parser(prog: str) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Make bearer tokens for a server's --tokens-file.",
        epilog="The entry, with the token's hash, is written to standard output: append it to the file. The token is "
        "written to standard error, and nowhere else.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    new = commands.add_parser("new", help="make a token", description="Make a token.")
    new.add_argument("name", metavar="NAME", help="whose it is; the log and refusals name it")
    new.add_argument(
        "--rights", type=_rights, default=["infer"], metavar="A,B", help=f"of {', '.join(RIGHTS)} (default: infer)"
    )
    new.add_argument(
        "--requests-per-s",
        type=float,
        metavar="N",
        help="inference requests that the server takes, all workers together (default: no limit)",
    )
    new.add_argument(
        "--max-in-flight",
        type=int,
        metavar="N",
        help="those of them that may be under way at a time (default: no limit)",
    )
    return parser


def _rights(text: str) -> list[str]:
    rights = text.split(",")
    if not set(rights) <= set(RIGHTS):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(RIGHTS)}, not '{text}'")
    return rights


if __name__ == "__main__":
    sys.exit(main())
