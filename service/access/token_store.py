"""The tokens of a file, read again when it changes, and those that callers have presented."""

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from ..errors import PermissionDenied, StartError, Unauthenticated
from ..file_changes import FileChanges
from .shared_counts import SharedCounts
from .token_limits import token_limits
from .tokens import Token, find, read_tokens

CHECK_S = 1.0
"""How often the file is looked at."""
MAX_KNOWN = 1024
"""Values of the header that are remembered, all of them valid."""
SCHEME = "bearer "

log = structlog.get_logger(__name__)


class TokenStore:
    """A context manager: within it, the file is read again when it changes; one that is broken leaves all as it was."""

    def __init__(self, path: Path, counts: SharedCounts | None = None) -> None:
        """``counts``: of what the tokens limit, with other processes. Raises StartError where the file is unusable."""
        self._path = path
        self._counts = counts or SharedCounts.alone()
        self._changes = FileChanges([path])
        # The tokens, and those that were presented by the header's value: one pair, so that none outlives its file.
        self._state: tuple[tuple[Token, ...], dict[str, Token]] = read_tokens(path), {}
        self._limits = token_limits(self._state[0], self._counts)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="tokens", daemon=True)

    def __enter__(self) -> Self:
        """Begins to watch the file."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the watch."""
        self._stop.set()
        self._thread.join()

    def known(self, authorization: str | None) -> Token | None:
        """The token of a header that was presented before."""
        return self._state[1].get(authorization or "")

    def authenticate(self, authorization: str | None, what: str) -> Token:
        """The token of a header; raises Unauthenticated. ``what`` was called."""
        tokens, known = self._state
        if authorization is None:
            reason = "The call has no token: send one as the metadata 'authorization: Bearer …'."
        elif not authorization.lower().startswith(SCHEME):
            reason = "The metadata 'authorization' is not 'Bearer …' with a token."
        else:
            token = known.get(authorization) or find(tokens, authorization[len(SCHEME) :].strip())
            if token is not None:
                if len(known) >= MAX_KNOWN:
                    known.clear()
                known[authorization] = token
                return token
            reason = "The token is none of this server's, or is not valid any more."
        log.warning("request refused", of=what, reason=reason, peer=True)
        raise Unauthenticated(reason)

    def require(self, right: str, authorization: str | None, what: str) -> None:
        """Raises Unauthenticated, or PermissionDenied where the token has not the right that this needs."""
        token = self.known(authorization) or self.authenticate(authorization, what)
        if right not in token.rights:
            log.warning("request refused", of=what, token=token.name, reason=f"no right {right}", peer=True)
            raise PermissionDenied(
                f"The token '{token.name}' has no right '{right}', which {what} needs. "
                "The server's operator gives rights in its tokens file."
            )

    def begin(self, token: Token) -> Callable[[], None] | None:
        """Counts an inference request of a token; returns what counts its end, if that matters. Raises Overloaded."""
        limit = self._limits.get(token.name)
        return None if limit is None else limit.begin()

    def _watch(self) -> None:
        while not self._stop.wait(CHECK_S):
            for limit in self._limits.values():
                limit.look()
            if not self._changes.seen():
                continue
            try:
                tokens = read_tokens(self._path)
                limits = token_limits(tokens, self._counts, self._limits)
            except StartError as error:
                log.error("the tokens file cannot be read again; the old tokens are kept", reason=str(error))
                continue
            self._state, self._limits = (tokens, {}), limits
            log.info("tokens read again", tokens=len(tokens))
