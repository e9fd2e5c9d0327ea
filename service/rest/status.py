"""The one table from our errors to HTTP: by their gRPC status codes, but for what only HTTP knows."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from grpc import StatusCode

from ..errors import NotReady, Overloaded
from ..metrics.counters import FAILURES
from ..rpc.status import NEVER, status_of

STATUSES: dict[StatusCode, int] = {
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.FAILED_PRECONDITION: 400,
    StatusCode.UNAUTHENTICATED: 401,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.NOT_FOUND: 404,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.CANCELLED: 499,  # nginx's: the client has gone, and reads no answer
    StatusCode.INTERNAL: 500,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DEADLINE_EXCEEDED: 504,
}
TOO_LARGE = 413
RETRY_S = 1
"""When to try again, where nothing better is known."""


class HttpRefusal(Exception):
    """A request that HTTP itself does not allow: what gRPC has no words for."""

    def __init__(self, status: int, message: str, *, reason: str, headers: dict[str, str] | None = None) -> None:
        """``reason``: one word, by which it is counted."""
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.headers = headers or {}


@dataclass(frozen=True)
class HttpStatus:
    """How a request ends that has no result."""

    code: int
    message: str
    headers: dict[str, str] = field(default_factory=dict)


def http_status_of(error: Exception, request_id: Callable[[], str]) -> HttpStatus:
    """The status that a caller may see; asked once for each error that is sent, and counts them."""
    if isinstance(error, HttpRefusal):
        FAILURES.refusals["", "", error.reason] += 1
        return HttpStatus(error.status, str(error), error.headers)
    status = status_of(error, request_id)
    code = STATUSES[status.code]
    if isinstance(error, Overloaded) and error.reason == "message_size":
        code = TOO_LARGE
    return HttpStatus(code, status.message, _headers(code, error, status.pushback_ms))


def _headers(code: int, error: Exception, pushback_ms: int | None) -> dict[str, str]:
    if code == STATUSES[StatusCode.UNAUTHENTICATED]:
        return {"WWW-Authenticate": "Bearer"}
    if code == STATUSES[StatusCode.RESOURCE_EXHAUSTED]:
        known = pushback_ms is not None and pushback_ms != NEVER
        return {"Retry-After": str(max(RETRY_S, math.ceil((pushback_ms or 0) / 1e3) if known else RETRY_S))}
    is_final = isinstance(error, NotReady) and not error.is_loading
    if code == STATUSES[StatusCode.UNAVAILABLE] and not is_final:
        return {"Retry-After": str(RETRY_S)}
    return {}
