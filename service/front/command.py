"""Options → Envoy's configuration on standard output."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence

from .. import options
from ..options import SettingsError, read_options
from .envoy import configuration
from .settings import PARSERS, FrontSettings
from .yaml_text import yaml_text

HEAD = """\
# Envoy before convserve's servers, written by: {command}
# Check it: envoy --mode validate --config-path FILE. Why each value is as it is: docs/many-machines.md.
# Start each server with --drain-delay-s {drain_delay_s:g} or longer.
"""


PROG = f"python -m {__package__}"


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Writes the configuration. Returns 0, or 2 where the options cannot be."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        settings = read_options(FrontSettings, PARSERS, "CONVSERVE_FRONT_", given, os.environ, prog)
    except SettingsError as error:
        for problem in error.problems:
            sys.stderr.write(f"error: {problem}\n")
        return 2
    sys.stdout.write(front_file(settings, given))
    return 0


def make_parser(prog: str) -> argparse.ArgumentParser:
    """The command line, for completion."""
    return options.make_parser(FrontSettings, prog)


def front_file(settings: FrontSettings, arguments: Sequence[str] = ()) -> str:
    """The file's text: a head of comments, and the configuration."""
    command = f"convserve front {shlex.join(arguments)}".rstrip().replace("\n", " ")
    return HEAD.format(command=command, drain_delay_s=settings.drain_delay_s) + yaml_text(configuration(settings))
