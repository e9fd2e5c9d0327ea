"""The check in front of every call: whether its token allows it.

Health and reflection need none, unless told otherwise; so do load balancers' and clients' questions whether the server
lives. Everything else needs a token, of which some methods want a right.
"""

from collections.abc import Mapping

from ..rpc import Call, DeferredMethod, Methods
from ..telemetry.observed_call import ObservedCall
from .token_store import TokenStore

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


class Guard:
    """Refuses calls that may not be."""

    def __init__(self, tokens: TokenStore, *, protect_health: bool = False) -> None:
        self._tokens = tokens
        self._open = () if protect_health else HEALTH

    def check(self, path: str, authorization: str | None) -> None:
        """Raises Unauthenticated or PermissionDenied where a call of this method may not be."""
        right = RIGHTS.get(path)
        if right is not None:
            self._tokens.require(right, authorization, path.rpartition("/")[2])
        elif not path.startswith(self._open):
            self._tokens.authenticate(authorization, path.rpartition("/")[2])

    def name_of(self, authorization: str | None) -> str:
        """The name of a token that was presented before; empty for others."""
        token = self._tokens.known(authorization)
        return "" if token is None else token.name

    def limited(self, methods: Methods) -> Methods:
        """The same methods, with the limits of tokens in front of those that infer."""

        def limit(path: str, method: DeferredMethod) -> DeferredMethod:
            return self._limited(method) if RIGHTS.get(path) == "infer" else method

        return methods.map_deferred(limit)

    def _limited(self, method: DeferredMethod) -> DeferredMethod:
        tokens = self._tokens

        def call_within_limit(call: Call) -> None:
            """Asks for the token again: in an open stream it may have been taken back."""
            authorization = call.metadata("authorization")
            token = tokens.known(authorization) or tokens.authenticate(authorization, call.path.rpartition("/")[2])
            end = tokens.begin(token)
            if end is None:
                method(call)
                return
            counted = ObservedCall(call, [lambda _: end()])
            try:
                method(counted)
            except Exception as error:
                counted.fail(error)

        return call_within_limit
