"""What can go wrong, as a tree that knows no transport (status.py has the gRPC codes).

ServiceError
├── InvalidRequest        the caller sent something that can never be answered
├── UnknownModel          no such model, or no such version of it
├── Unauthenticated       the call has no token, or none of this server's
├── PermissionDenied      the token has not the right that the method wants
├── Unsupported           a part of the protocol that this server does not have
├── NotReady              the model is known but cannot be asked now
├── Stopping              the server is going away
├── Overloaded            a bound was reached: queue, message size
├── Expired               the time the caller allowed has passed
├── Cancelled             the caller went away
├── ModelChangeFailed     a model was to be loaded or unloaded, and cannot be
├── ModelFailed           the model raised an error while it ran; details are for the log only
└── RequestFailed         the same, as the caller may read it
StartError                the service cannot start; for the operator, never for a caller
├── ProviderUnavailable   an execution provider was asked for and does not run here
└── ModelRejected         one file cannot be served; the others can
"""


class ServiceError(Exception):
    """A request that gets no answer, and the sentence that says why."""

    reason = "internal"
    """One word for the kind of refusal, by which it is counted."""
    model: tuple[str, str] = ("", "")
    """Name and version of the model that was asked, once it is known."""


class InvalidRequest(ServiceError):
    """The request can never be answered as it is."""

    reason = "invalid_request"


class UnknownModel(ServiceError):
    """No model of that name, or no such version of it."""

    reason = "unknown_model"


class Unauthenticated(ServiceError):
    """The call has no token, or none of this server's."""

    reason = "unauthenticated"


class PermissionDenied(ServiceError):
    """The token has not the right that the method wants."""

    reason = "permission_denied"


class Unsupported(ServiceError):
    """A part of the protocol that this server does not have."""

    reason = "unsupported"


class NotReady(ServiceError):
    """The model is known, but cannot be asked now."""

    reason = "not_ready"

    def __init__(self, message: str, *, is_loading: bool = False) -> None:
        """``is_loading``: a retry may succeed soon."""
        super().__init__(message)
        self.is_loading = is_loading


class Stopping(ServiceError):
    """The server is stopping and takes no more requests."""

    reason = "stopping"


class Overloaded(ServiceError):
    """The queue is full or would take too long, or a message is larger than the limit."""

    def __init__(self, message: str, *, retry_after_s: float | None, reason: str = "message_size") -> None:
        """``retry_after_s``: when a retry may succeed; None: not as the request is. ``reason``: which bound it was."""
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.reason = reason


class Expired(ServiceError):
    """The caller's deadline, or its limit on the time in the queue, has passed."""

    reason = "expired"


class Cancelled(ServiceError):
    """The caller went away before the answer."""

    reason = "cancelled"


class ModelChangeFailed(ServiceError):
    """A model was to be loaded or unloaded, and cannot be; what was served goes on."""

    reason = "model_change"


class ModelFailed(ServiceError):
    """The model raised an error while it ran."""

    reason = "model_failed"


class RequestFailed(ServiceError):
    """The model failed at this request, for a reason that the caller may read."""

    reason = "model_failed"


class StartError(Exception):
    """The service, or a part of it, cannot start."""


class ProviderUnavailable(StartError):
    """An execution provider was asked for, and a session does not run on it."""


class ModelRejected(StartError):
    """The file cannot be served: unreadable, of an unfit form, or not the function it claims to be."""
