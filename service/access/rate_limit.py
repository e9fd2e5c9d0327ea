"""Limits of tokens: so many requests a second, of all processes of one port together."""

import threading
import time
from collections.abc import Iterable, Mapping

from ..errors import Overloaded, StartError
from .shared_counts import MAX_TOKENS, SharedCounts
from .tokens import Token


class RateLimit:
    """A token bucket as one process sees it: what the others have taken since its last look counts as taken now.

    So it never sees more in the bucket than there is. `look` each second keeps it from seeing much less.
    """

    def __init__(self, token: Token, per_s: float, row: int, counts: SharedCounts) -> None:
        self.token, self.row = token, row
        self._per_s = per_s
        self._counts = counts
        self._burst = max(1.0, per_s)
        self._lock = threading.Lock()
        self._seen, self._at = counts.total(row), time.monotonic()
        # Of a bucket that others use already, this much at least is there.
        last_at = counts.last_at(row)
        self._left = min(self._burst, (self._at - last_at) * per_s) if last_at else self._burst

    def take(self) -> None:
        """Counts a request; raises Overloaded where there is one too many."""
        with self._lock:
            self._look()
            if self._left >= 1:
                self._left -= 1
                self._seen += 1
                self._counts.add(self.row)
                return
            wait_s = (1 - self._left) / self._per_s
        raise Overloaded(
            f"The token '{self.token.name}' allows {self._per_s:g} requests a second. "
            f"Try again in {wait_s * 1e3:.0f} ms.",
            retry_after_s=wait_s,
            reason="token_limit",
        )

    def look(self) -> None:
        """Takes note of what other processes have taken."""
        with self._lock:
            self._look()

    def _look(self) -> None:
        now, total = time.monotonic(), self._counts.total(self.row)
        self._left = min(self._burst, self._left + (now - self._at) * self._per_s)
        if total != self._seen:
            self._left = max(0.0, self._left - (total - self._seen))
        self._at, self._seen = now, total


def rate_limits(
    tokens: Iterable[Token], counts: SharedCounts, before: Mapping[str, RateLimit] | None = None
) -> dict[str, RateLimit]:
    """The limits of these tokens, by name; those that stay as they are go on. Raises StartError.

    Each has a row by its hash, so that all processes take the same one.
    """
    limits: dict[str, RateLimit] = {}
    taken: set[int] = set()
    for token in sorted(tokens, key=lambda token: token.digest):
        if token.requests_per_s is None:
            continue
        if len(taken) == MAX_TOKENS:
            raise StartError(f"the tokens file has too many limits: {MAX_TOKENS} tokens may have requests_per_s")
        row = int.from_bytes(token.digest[:4], "big") % MAX_TOKENS
        while row in taken:
            row = (row + 1) % MAX_TOKENS
        taken.add(row)
        old = (before or {}).get(token.name)
        if old is not None and (old.token, old.row) == (token, row):
            limits[token.name] = old
        else:
            limits[token.name] = RateLimit(token, token.requests_per_s, row, counts)
    return limits
