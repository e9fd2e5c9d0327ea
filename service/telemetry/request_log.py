"""The lines of the log about single requests: the access log, on demand, and slow requests."""

import time
from collections.abc import Callable, Mapping

import structlog

from ..rpc import Call, ImmediateCall, request_id
from .call_end import CallEnd, GivenId, code_name

log = structlog.get_logger(__name__)


class RequestLog:
    """Writes them."""

    def __init__(self, given_ids: Mapping[str, GivenId], token_name: Callable[[str | None], str]) -> None:
        """``given_ids`` read ids from messages, by method; ``token_name`` is asked with ``authorization``."""
        self._given_ids = given_ids
        self._token_name = token_name

    def access(self, end: CallEnd) -> None:
        """Tells of a call of a deferred method."""
        log.info("access", **self._fields(end))

    def access_immediate(self, call: ImmediateCall) -> None:
        """Tells of a call of an immediate method."""
        token = self._token_name(call.metadata("authorization"))
        log.info(
            "access",
            method=call.path,
            code="OK" if call.error is None else code_name(call.error),
            id=request_id(call.metadata),
            peer_address=call.peer_name,
            total_ms=round((time.monotonic_ns() - call.began_ns) / 1e6, 3),
            **({"token": token} if token else {}),
        )

    def slow(self, call: Call, result: bytes | Exception) -> None:
        """Tells of a request that took long."""
        log.warning("slow request", **self._fields(CallEnd.of(call, result)), peer=True)

    def _fields(self, end: CallEnd) -> dict[str, object]:
        return end.fields(self._given_ids, self._token_name(end.call.metadata("authorization")))
