"""Envoy before several servers: its configuration, written from a few options.

Envoy itself is not part of this package; ``convserve front`` writes the file that it reads.
"""

from .command import main, make_parser

__all__ = ["main", "make_parser"]
