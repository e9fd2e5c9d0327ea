"""The one table from our errors to gRPC status codes."""

import grpc
import structlog

from service import errors

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


def status_of(error: BaseException) -> tuple[grpc.StatusCode, str]:
    """The status code and the message a caller may see; what was not foreseen goes to the log."""
    code = CODES.get(type(error))  # type: ignore[arg-type]  # any type may be looked up
    if code is not None:
        return code, str(error)
    log.error("request failed", exc_info=error)
    return grpc.StatusCode.INTERNAL, "The server failed to answer this request; its log has the details."
