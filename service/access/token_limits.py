"""Limits of tokens: requests a second and requests at a time, of all processes of one port together."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping

from ..errors import Overloaded, StartError
from .shared_counts import MAX_TOKENS, SharedCounts
from .tokens import Token

UNLIMITED = 1e12
"""Requests a second."""
RETRY_S = 0.1
"""After which a request may come again that found too many at a time."""


class TokenLimit:
    """A token bucket as one process sees it: what the others have taken since its last look counts as taken now.

    So it never sees more in the bucket than there is. `look` each second keeps it from seeing much less.
    """

    def __init__(self, token: Token, row: int, counts: SharedCounts) -> None:
        self.token, self.row = token, row
        self._per_s = UNLIMITED if token.requests_per_s is None else token.requests_per_s
        self._max_in_flight = token.max_in_flight
        self._counts = counts
        self._burst = max(1.0, self._per_s)
        self._lock = threading.Lock()
        self._seen, self._at = counts.total(row), time.monotonic()
        # Of a bucket that others use already, this much at least is there.
        last_at = counts.last_at(row)
        self._left = min(self._burst, (self._at - last_at) * self._per_s) if last_at else self._burst

    def begin(self) -> Callable[[], None] | None:
        """Counts a request; returns what counts its end, if that matters. Raises Overloaded."""
        most, counts, row = self._max_in_flight, self._counts, self.row
        with self._lock:
            if most is not None and counts.in_flight(row) >= most:
                raise Overloaded(
                    f"The token '{self.token.name}' allows {most} requests at a time. Try again when one has ended.",
                    retry_after_s=RETRY_S,
                    reason="token_limit",
                )
            self._look()
            if self._left < 1:
                wait_s = (1 - self._left) / self._per_s
                raise Overloaded(
                    f"The token '{self.token.name}' allows {self._per_s:g} requests a second. "
                    f"Try again in {wait_s * 1e3:.0f} ms.",
                    retry_after_s=wait_s,
                    reason="token_limit",
                )
            self._left -= 1
            self._seen += 1
            counts.begin(row)
            if most is not None:
                return self._end
            counts.end(row)
            return None

    def _end(self) -> None:
        with self._lock:
            self._counts.end(self.row)

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


def token_limits(
    tokens: Iterable[Token], counts: SharedCounts, before: Mapping[str, TokenLimit] | None = None
) -> dict[str, TokenLimit]:
    """The limits of these tokens, by name; those that stay as they are go on. Raises StartError.

    Each has a row by its hash, so that all processes take the same one.
    """
    limits: dict[str, TokenLimit] = {}
    taken: set[int] = set()
    for token in sorted(tokens, key=lambda token: token.digest):
        if token.requests_per_s is None and token.max_in_flight is None:
            continue
        if len(taken) == MAX_TOKENS:
            raise StartError(f"the tokens file has too many limits: {MAX_TOKENS} tokens may have one")
        row = int.from_bytes(token.digest[:4], "big") % MAX_TOKENS
        while row in taken:
            row = (row + 1) % MAX_TOKENS
        taken.add(row)
        old = (before or {}).get(token.name)
        if old is not None and (old.token, old.row) == (token, row):
            limits[token.name] = old
        else:
            limits[token.name] = TokenLimit(token, row, counts)
    return limits
