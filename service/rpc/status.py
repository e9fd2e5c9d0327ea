"""The one table from our errors to gRPC status codes."""

import time

import grpc
import structlog

from service import errors
from service.metrics.counters import FAILURES

log = structlog.get_logger(__name__)

CODES: dict[type[errors.ServiceError], grpc.StatusCode] = {
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnknownModel: grpc.StatusCode.NOT_FOUND,
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
    code = CODES.get(type(error), grpc.StatusCode.INTERNAL)  # type: ignore[arg-type]  # any type may be looked up
    if code is grpc.StatusCode.CANCELLED and deadline is not None and deadline <= time.monotonic():
        code = grpc.StatusCode.DEADLINE_EXCEEDED
    name, version = getattr(error, "model", UNKNOWN) if model is None else model
    FAILURES.calls[name, version, code.name] += 1


def status_of(error: BaseException) -> tuple[grpc.StatusCode, str]:
    """The status code and the message a caller may see; what was not foreseen goes to the log.

    It is asked once for each error that is sent, and counts them.
    """
    name, version = getattr(error, "model", UNKNOWN)
    FAILURES.refusals[name, version, getattr(error, "reason", "internal")] += 1
    code = CODES.get(type(error))  # type: ignore[arg-type]  # any type may be looked up
    if code is not None:
        return code, str(error)
    log.error("request failed", exc_info=error)
    return grpc.StatusCode.INTERNAL, "The server failed to answer this request; its log has the details."
