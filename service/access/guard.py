"""The check in front of every call: whether its token allows it.

Health and reflection need none, unless told otherwise; so do load balancers' and clients' questions whether the server
lives. Everything else needs a token, of which some methods want a right.
"""

import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from service.access.tokens import Token, find, read_tokens
from service.errors import PermissionDenied, StartError, Unauthenticated
from service.file_changes import FileChanges
from service.rpc import Call, DeferredMethod, Methods

CHECK_S = 1.0
"""How often the file is looked at."""
MAX_KNOWN = 1024
"""Values of the header that are remembered, all of them valid."""
SCHEME = "bearer "
OIP, CLASSIFIER = "/inference.GRPCInferenceService/", "/convserve.v1.ImageClassifier/"
RIGHTS: Mapping[str, str] = {
    f"{OIP}ModelInfer": "infer",
    f"{OIP}ModelStreamInfer": "infer",
    f"{CLASSIFIER}Classify": "infer",
    f"{OIP}RepositoryModelLoad": "control",
    f"{OIP}RepositoryModelUnload": "control",
    f"{OIP}ModelStatistics": "metrics",
}
"""What a method wants of a token; all others are for every token."""
HEALTH = (f"{OIP}ServerLive", f"{OIP}ServerReady", f"{OIP}ModelReady", "/grpc.health.v1.Health/", "/grpc.reflection.v1")
"""How the methods begin that are open."""

log = structlog.get_logger(__name__)


class Guard:
    """Knows the tokens. A context manager: within it, they are read again when their file changes."""

    def __init__(self, path: Path, *, protect_health: bool = False) -> None:
        """Raises StartError where the file cannot be used."""
        self._path = path
        self._open = () if protect_health else HEALTH
        self._changes = FileChanges([path])
        # The tokens, and those that were presented by the header's value: one pair, so that none outlives its file.
        self._state: tuple[tuple[Token, ...], dict[str, Token]] = read_tokens(path), {}
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

    def check(self, path: str, authorization: str | None) -> None:
        """Raises Unauthenticated or PermissionDenied where a call of this method may not be."""
        token = self._state[1].get(authorization or "")
        if token is None:
            if path.startswith(self._open):
                return
            token = self._authenticate(authorization)
        right = RIGHTS.get(path)
        if right is not None and right not in token.rights:
            if path.startswith(self._open):
                return
            log.warning("request refused", method=path, token=token.name, reason="no right", peer=True)
            raise PermissionDenied(
                f"The token '{token.name}' has no right '{right}', which {path.rpartition('/')[2]} needs. "
                "The server's operator gives rights in its tokens file."
            )

    def name_of(self, authorization: str | None) -> str:
        """The name of a token that was checked before; empty for others."""
        token = self._state[1].get(authorization or "")
        return "" if token is None else token.name

    def limited(self, methods: Methods) -> Methods:
        """The same methods, with the limits of tokens in front of those that infer."""

        def limit(path: str, method: DeferredMethod) -> DeferredMethod:
            return self._limited(method) if RIGHTS.get(path) == "infer" else method

        return methods.map_deferred(limit)

    def _limited(self, method: DeferredMethod) -> DeferredMethod:
        def call_within_limit(call: Call) -> None:
            """Asks for the token again: in an open stream it may have been taken back."""
            authorization = call.metadata("authorization")
            token = self._state[1].get(authorization or "") or self._authenticate(authorization)
            if token.limit is not None:
                token.limit.take()
            method(call)

        return call_within_limit

    def _authenticate(self, authorization: str | None) -> Token:
        """The token of a header that is not known; raises Unauthenticated."""
        if authorization is None:
            reason = "The call has no token: send one as the metadata 'authorization: Bearer …'."
        elif not authorization.lower().startswith(SCHEME):
            reason = "The metadata 'authorization' is not 'Bearer …' with a token."
        else:
            tokens, known = self._state
            token = find(tokens, authorization[len(SCHEME) :].strip())
            if token is not None:
                if len(known) >= MAX_KNOWN:
                    known.clear()
                known[authorization] = token
                return token
            reason = "The token is none of this server's, or is not valid any more."
        log.warning("request refused", reason=reason, peer=True)
        raise Unauthenticated(reason)

    def _watch(self) -> None:
        while not self._stop.wait(CHECK_S):
            if not self._changes.seen():
                continue
            try:
                tokens = read_tokens(self._path)
            except StartError as error:
                log.error("the tokens file cannot be read again; the old tokens are kept", reason=str(error))
                continue
            self._state = tokens, {}
            log.info("tokens read again", tokens=len(tokens))
