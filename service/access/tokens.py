"""The tokens file: the SHA-256 of each token, what it may do, and how often.

    [[tokens]]
    name = "web"
    sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    rights = ["infer"]
    requests_per_s = 200

Tokens are random and long, so that a hash needs neither salt nor time: there is no list of likely ones to try.
"""

import hashlib
import hmac
import threading
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import Overloaded, StartError

RIGHTS = ("infer", "control", "metrics")
"""Inference; loading and unloading models; statistics."""
FIELDS = ("name", "sha256", "rights", "requests_per_s")
DIGEST_CHARACTERS = 64


@dataclass(frozen=True)
class Token:
    """One entry of the file."""

    name: str
    digest: bytes
    """SHA-256 of the token."""
    rights: frozenset[str]
    limit: "RateLimit | None" = field(default=None, compare=False)
    """Of its inference requests."""


class RateLimit:
    """So many requests each second on average, and in a burst."""

    def __init__(self, name: str, per_s: float) -> None:
        self.per_s = per_s
        self._name = name
        self._burst = max(1.0, per_s)
        self._left, self._at = self._burst, time.monotonic()
        self._lock = threading.Lock()

    def take(self) -> None:
        """Counts a request; raises Overloaded where there is one too many."""
        with self._lock:
            now = time.monotonic()
            self._left = min(self._burst, self._left + (now - self._at) * self.per_s)
            self._at = now
            if self._left >= 1:
                self._left -= 1
                return
            wait_s = (1 - self._left) / self.per_s
        raise Overloaded(
            f"The token '{self._name}' allows {self.per_s:g} requests a second. Try again in {wait_s * 1e3:.0f} ms.",
            retry_after_s=wait_s,
            reason="token_limit",
        )


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
    name, digest, rights, per_s = (entry.get(key) for key in FIELDS)
    if not isinstance(name, str) or not name:
        raise ValueError("name must be a text")
    if not isinstance(digest, str) or len(digest) != DIGEST_CHARACTERS:
        raise ValueError(f"sha256 of '{name}' must be {DIGEST_CHARACTERS} hexadecimal digits")
    if not isinstance(rights, list) or not rights or not all(right in RIGHTS for right in rights):
        raise ValueError(f"rights of '{name}' must be a list of {', '.join(RIGHTS)}")
    if per_s is not None and (not isinstance(per_s, int | float) or isinstance(per_s, bool) or not per_s > 0):
        raise ValueError(f"requests_per_s of '{name}' must be a number above 0")
    limit = None if per_s is None else RateLimit(name, per_s)
    return Token(name, bytes.fromhex(digest), frozenset(rights), limit)


def find(tokens: tuple[Token, ...], presented: str) -> Token | None:
    """The token that was presented; the time it takes tells nothing of how much of one was right."""
    digest = hashlib.sha256(presented.encode()).digest()
    found = None
    for token in tokens:
        if hmac.compare_digest(token.digest, digest):
            found = token
    return found
