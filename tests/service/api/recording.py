"""Calls and a batcher that keep what they are given."""

from collections.abc import Callable

from service.batching.batch import TensorMap
from service.batching.request import Request
from service.batching.statistics import Statistics
from service.rpc import Call


class RecordingBatcher:
    """Takes every request, and completes it with what ``run`` makes of its inputs when it is told to."""

    max_batch_rows = 4

    def __init__(self, run: Callable[[TensorMap], TensorMap]) -> None:
        self.request: Request | None = None
        self.statistics = Statistics()
        self._run = run

    def submit(self, request: Request) -> None:
        self.request = request

    def cancel(self, request: Request) -> None:
        request.inputs = {}

    def dispatch(self) -> bool:
        return False

    def complete(self) -> None:
        """Answers the last request."""
        assert self.request is not None
        self.request.complete(self._run(self.request.inputs))


class RecordingCall(Call):
    """Keeps its answer."""

    def __init__(self, payload: bytes) -> None:
        super().__init__(payload, None)
        self.answer: object = None

    path = peer_name = ""

    def metadata(self, name: str) -> str | None:
        raise AssertionError(name)

    def respond(self, payload: bytes) -> None:
        self.answer = payload

    def fail(self, error: Exception) -> None:
        self.answer = (type(error), str(error))
