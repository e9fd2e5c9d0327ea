"""What can go wrong for a user of the client, and the sentence that says so.

    ClientError              everything below; its text is fit for a user's eyes
    ├── UnusablePicture      an image cannot be read on this side; nothing has been sent
    ├── UnusableTensor       an array or its file cannot be sent, or a result cannot be written
    ├── UnusableDataset      a test set is missing, damaged or not the model's
    ├── ServerUnavailable    no server answers, or it is stopping
    ├── AnswerLate           the time limit of a call has passed
    ├── LimitReached         the server's queue is full, or a message is larger than it takes
    ├── ModelNotFound        the server has no such model or version
    ├── ModelRefused         the server does not serve the model's file, and says why
    ├── RequestRefused       the server understood the request and declines it
    └── ServerFailure        the server failed, or answered what the protocol does not allow

An error of a call is chained from its ``grpc.RpcError``, which keeps code, details and metadata.
"""

import grpc


class ClientError(Exception):
    """The root: catch this to catch every error of the client."""


class UnusablePicture(ClientError):
    """An image cannot be read on this side; nothing has been sent."""


class UnusableTensor(ClientError):
    """An array or its file cannot be sent, or a result cannot be written."""


class UnusableDataset(ClientError):
    """A test set is missing, damaged or not the model's."""


class ServerUnavailable(ClientError):
    """No server answers at the address, or it is stopping; attempts have been repeated."""


class AnswerLate(ClientError):
    """The time limit of a call passed before its answer came."""


class LimitReached(ClientError):
    """The server's queue is full, or a message is larger than one side takes."""


class ModelNotFound(ClientError):
    """The server has no model of that name, or not that version of it."""


class ModelRefused(ClientError):
    """The server has the model's file and does not serve it; the text says why."""


class RequestRefused(ClientError):
    """The server understood the request and declines it."""


class ServerFailure(ClientError):
    """The server failed, or answered what the protocol does not allow."""


_REFUSED = (RequestRefused, "{target} refuses the request: {details}")

# status code → the class, and its sentence; every other code is a failure of the server
_BY_CODE: dict[grpc.StatusCode, tuple[type[ClientError], str]] = {
    grpc.StatusCode.UNAVAILABLE: (
        ServerUnavailable,
        "no server answers at {target} ({details}): start one with `convserve serve`, or give the address of one",
    ),
    grpc.StatusCode.DEADLINE_EXCEEDED: (
        AnswerLate,
        "{target} gave no answer within {timeout_s:g} s: allow more time, or send fewer images at once",
    ),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (
        LimitReached,
        "a limit on the way to {target} is reached: {details}; send less at once",
    ),
    grpc.StatusCode.NOT_FOUND: (
        ModelNotFound,
        "{target} does not have what was asked for ({details}): `list` shows its models",
    ),
    grpc.StatusCode.UNIMPLEMENTED: (
        RequestRefused,
        "{target} does not know the call ({details}): is it a convserve server?",
    ),
    grpc.StatusCode.INVALID_ARGUMENT: _REFUSED,
    grpc.StatusCode.FAILED_PRECONDITION: _REFUSED,
    grpc.StatusCode.OUT_OF_RANGE: _REFUSED,
    grpc.StatusCode.PERMISSION_DENIED: _REFUSED,
    grpc.StatusCode.UNAUTHENTICATED: _REFUSED,
}


def client_error(error: grpc.RpcError, *, target: str, timeout_s: float) -> ClientError:
    """Turn a failed call into an error of the client, to be raised from ``error``."""
    code = error.code()
    kind, sentence = _BY_CODE.get(code, (ServerFailure, "{target} failed: {code}: {details}"))
    details = (error.details() or "no details").rstrip(".")
    return kind(sentence.format(target=target, details=details, code=code.name, timeout_s=timeout_s))
