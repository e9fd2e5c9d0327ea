"""How inference calls end, counted by model and status code."""

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import Cancelled, ServiceError
from ..rpc import Call
from ..rpc.call import DeferredMethod
from ..rpc.status import count_failure
from ..runtime.endpoint import Endpoint


def respond(call: Call, payload: bytes, endpoint: Endpoint) -> None:
    """Answers a call with a result, and counts it."""
    endpoint.batcher.statistics.answered += 1
    call.respond(payload)


def fail(call: Call, error: Exception, endpoint: Endpoint) -> None:
    """Answers a call with an error, and counts it."""
    name_model(error, endpoint)
    count_failure(error, call.deadline, (endpoint.name, endpoint.version))
    call.fail(error)


def abandon(call: Call, endpoint: Endpoint) -> None:
    """Counts a call that is not answered: its caller has gone, or its deadline has passed."""
    count_failure(Cancelled("The caller went away."), call.deadline, (endpoint.name, endpoint.version))


def name_model(error: Exception, endpoint: Endpoint) -> None:
    """Notes on the error which model was asked, so that it is counted by model."""
    if isinstance(error, ServiceError):
        error.model = endpoint.name, endpoint.version


@contextmanager
def naming(endpoint: Endpoint) -> Iterator[None]:
    """Has errors that are raised within tell which model was asked; for paths that are not taken by every request."""
    try:
        yield
    except ServiceError as error:
        name_model(error, endpoint)
        raise


def refusing(method: DeferredMethod) -> DeferredMethod:
    """Has what the method raises answer its call: what reaches the transport counts as inference that failed."""

    def serve(call: Call) -> None:
        try:
            method(call)
        except Exception as error:
            call.fail(error)

    return serve
