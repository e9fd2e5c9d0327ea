"""The one table from our errors to gRPC status codes."""

import time
from collections.abc import Callable
from math import ceil
from typing import NamedTuple

import grpc
import structlog

from .. import errors
from ..metrics.counters import FAILURES

log = structlog.get_logger(__name__)

PUSHBACK = "grpc-retry-pushback-ms"
"""The trailing metadata that says when a call may be repeated: https://github.com/grpc/proposal/blob/master/A6-client-retries.md."""
NEVER = -1
MIN_PUSHBACK_MS = 10
UNFORESEEN = "The server failed to answer this request; its log has the details."

CODES: dict[type[errors.ServiceError], grpc.StatusCode] = {
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnknownModel: grpc.StatusCode.NOT_FOUND,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.Unsupported: grpc.StatusCode.UNIMPLEMENTED,
    errors.NotReady: grpc.StatusCode.UNAVAILABLE,
    errors.ModelChangeFailed: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Stopping: grpc.StatusCode.UNAVAILABLE,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Expired: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Cancelled: grpc.StatusCode.CANCELLED,
    errors.RequestFailed: grpc.StatusCode.INTERNAL,
}

UNKNOWN = ("", "")
"""Name and version of a model that is not known yet."""


def count_failure(error: BaseException, deadline: float | None, model: tuple[str, str] | None = None) -> None:
    """Counts an inference call that ends with this error; ``deadline`` is the call's.

    ``model``: name and version of the model that was asked, where the error does not tell.
    """
    code = code_of(error, deadline)
    name, version = getattr(error, "model", UNKNOWN) if model is None else model
    FAILURES.calls[name, version, code.name] += 1


class Status(NamedTuple):
    """How a call ends that has no result."""

    code: grpc.StatusCode
    message: str
    """What the caller may read."""
    pushback_ms: int | None = None
    """When a retry may succeed, as `PUSHBACK` has it: negative, never; None, the caller's policy decides."""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The trailing metadata."""
        return () if self.pushback_ms is None else ((PUSHBACK, str(self.pushback_ms)),)


def status_of(error: BaseException, request_id: Callable[[], str] | None = None) -> Status:
    """The status a caller may see; what was not foreseen goes to the log.

    ``request_id`` is asked where the fault is the server's, and told to caller and log. This is asked once
    for each error that is sent, and counts them.
    """
    name, version = getattr(error, "model", UNKNOWN)
    FAILURES.refusals[name, version, getattr(error, "reason", "internal")] += 1
    code = CODES.get(type(error))  # type: ignore[arg-type]  # any type may be looked up
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Status(code, str(error), _pushback_ms(getattr(error, "retry_after_s", None)))
    if code is not None and code is not grpc.StatusCode.INTERNAL:
        is_final = isinstance(error, errors.NotReady) and not error.is_loading
        return Status(code, str(error), NEVER if is_final else None)
    known_by = "" if request_id is None else request_id()
    if code is None:
        log.error("request failed", exc_info=error, **{"id": known_by} if known_by else {})
    message = UNFORESEEN if code is None else str(error)
    return Status(grpc.StatusCode.INTERNAL, f"{message} (request id {known_by})" if known_by else message)


def code_of(error: BaseException, deadline: float | None = None) -> grpc.StatusCode:
    """The status code of an error; a call that is given up after its deadline ended by it."""
    code = CODES.get(type(error), grpc.StatusCode.INTERNAL)  # type: ignore[arg-type]  # any type may be looked up
    if code is grpc.StatusCode.CANCELLED and deadline is not None and deadline <= time.monotonic():
        return grpc.StatusCode.DEADLINE_EXCEEDED
    return code


def _pushback_ms(retry_after_s: float | None) -> int:
    if retry_after_s is None:
        return NEVER
    return max(MIN_PUSHBACK_MS, ceil(retry_after_s * 1e3))
