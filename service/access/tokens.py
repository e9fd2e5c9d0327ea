"""The tokens file: the SHA-256 of each token, what it may do, and how often.

    [[tokens]]
    name = "web"
    sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    rights = ["infer"]
    requests_per_s = 200
    max_in_flight = 32

Tokens are random and long, so that a hash needs neither salt nor time: there is no list of likely ones to try.
"""

import hashlib
import hmac
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import StartError

RIGHTS = ("infer", "control", "metrics")
"""Inference; loading and unloading models; statistics."""
FIELDS = ("name", "sha256", "rights", "requests_per_s", "max_in_flight")
DIGEST_CHARACTERS = 64


@dataclass(frozen=True)
class Token:
    """One entry of the file."""

    name: str
    digest: bytes
    """SHA-256 of the token."""
    rights: frozenset[str]
    requests_per_s: float | None = None
    """Inference requests that all workers together take; None: any number."""
    max_in_flight: int | None = None
    """Those of them that may be under way at a time; None: any number."""


def read_tokens(path: Path) -> tuple[Token, ...]:
    """The tokens of a file; raises StartError with a sentence."""
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StartError(f"the tokens file {path} cannot be read: {error}") from error
    listed = entries.get("tokens", [])
    if set(entries) - {"tokens"} or not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise StartError(f"the tokens file {path} has [[tokens]] entries and nothing else")
    tokens: dict[str, Token] = {}
    for number, entry in enumerate(listed, 1):
        try:
            token = _token(entry)
        except ValueError as error:
            raise StartError(f"the tokens file {path}, entry {number}: {error}") from error
        if token.name in tokens:
            raise StartError(f"the tokens file {path}, entry {number}: '{token.name}' is there twice")
        tokens[token.name] = token
    return tuple(tokens.values())


def _token(entry: Mapping[str, Any]) -> Token:
    unknown = sorted(set(entry) - set(FIELDS))
    if unknown:
        raise ValueError(f"{', '.join(unknown)} is unknown; an entry has {', '.join(FIELDS)}")
    name, digest, rights, per_s, in_flight = (entry.get(key) for key in FIELDS)
    if not isinstance(name, str) or not name:
        raise ValueError("name must be a text")
    if not isinstance(digest, str) or len(digest) != DIGEST_CHARACTERS:
        raise ValueError(f"sha256 of '{name}' must be {DIGEST_CHARACTERS} hexadecimal digits")
    if not isinstance(rights, list) or not rights or not all(right in RIGHTS for right in rights):
        raise ValueError(f"rights of '{name}' must be a list of {', '.join(RIGHTS)}")
    if per_s is not None and (not isinstance(per_s, int | float) or isinstance(per_s, bool) or not per_s > 0):
        raise ValueError(f"requests_per_s of '{name}' must be a number above 0")
    if in_flight is not None and (not isinstance(in_flight, int) or isinstance(in_flight, bool) or in_flight < 1):
        raise ValueError(f"max_in_flight of '{name}' must be a whole number above 0")
    return Token(name, bytes.fromhex(digest), frozenset(rights), per_s, in_flight)


def find(tokens: tuple[Token, ...], presented: str) -> Token | None:
    """The token that was presented; the time it takes tells nothing of how much of one was right."""
    digest = hashlib.sha256(presented.encode()).digest()
    found = None
    for token in tokens:
        if hmac.compare_digest(token.digest, digest):
            found = token
    return found
