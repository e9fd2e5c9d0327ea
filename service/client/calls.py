"""The course of each conversation with a server, written once for both clients.

A conversation is a generator: it yields the call to wait for, or a pause, is sent that call's answer, or has its error
thrown in, and returns the result. So the order of calls, how many are under way, what becomes of the others when
one fails, and how a restart is bridged are written once; a client only waits, in its own way.
"""

import itertools
import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import grpc
import numpy.typing as npt

from ..pb import image_classifier_pb2 as pb
from . import messages, shrink, tensors
from . import open_inference as oip
from .connection import Connection
from .errors import ClientError, ModelNotFound, ModelRefused, RequestRefused, ServerFailure, client_error
from .pictures import Pictures, Source, sources
from .results import ModelList, ModelSummary, Result, TensorModel, TensorOutputs, UnservedModel
from .rpcs import CLASSIFY, INDEX, INFER, LIST_MODELS, METADATA, Rpc

T = TypeVar("T")

# Calls of a few MiB keep both sides busy: the server decodes one while the next is on the wire.
_MAX_CALL_BYTES = 8 * 2**20
# Names, sizes and field tags beside one image's bytes.
_MESSAGE_SLACK_BYTES = 4096
_PAUSES_S = (0.1, 0.2, 0.4, 0.8)
"""Before a call is sent again; the last one from then on."""
_FIRST_ATTEMPTS = 3
"""How often a call is sent again to a server that has never answered; gRPC itself does so for some."""
_REPEATED_BY_GRPC = (CLASSIFY, LIST_MODELS)
_INDEX_TIMEOUT_S = 5.0
_PROBE_TIMEOUT_S = 0.5


class Call(Protocol):
    """A call that is under way."""

    def cancel(self) -> object:
        """Give it up, unless it is done."""


@dataclass(frozen=True)
class Pause:
    """A conversation waits, and no call is under way for it."""

    seconds: float


@dataclass(frozen=True)
class Asked:
    """A call that was sent, with all that is needed to send it again."""

    rpc: Rpc
    request: Any
    call: Call
    since: float


Conversation = Generator[Any, Any, T]


class Calls(Connection):
    """The conversations; ``sync`` and ``aio`` say how to send and to wait."""

    _reached = False
    """True once this server has answered anything, so that it is worth waiting for where it goes away."""

    def _send(self, rpc: Rpc, request: Any, timeout_s: float, *, wait_for_ready: bool = False) -> Call:
        """Start a call."""
        raise NotImplementedError

    def _classification(
        self, pictures: Pictures, *, model: str, top_k: int, logits: bool, version: str | int, shrink_photos: bool
    ) -> Conversation[list[Result]]:
        """Send the calls in order, a few ahead of the answers; give up the rest when one fails."""
        if top_k < 1:
            raise ValueError(f"top_k must be 1 or more, not {top_k}")
        largest = self._max_message_bytes - _MESSAGE_SLACK_BYTES
        found = sources(pictures, max_bytes=largest)
        if shrink_photos and any(source.may_shrink for source in found):
            found = yield from self._shrinking(found, model, str(version))
        requests = messages.requests(
            messages.Question(model, str(version), top_k, logits),
            found,
            max_images=self._max_call_images,
            max_bytes=min(_MAX_CALL_BYTES, largest),
        )
        answers: list[Result] = []
        under_way: deque[Asked] = deque()

        def first() -> Conversation[list[Result]]:
            asked = under_way[0]
            response = yield from self._answer(asked, (model, str(version)))
            under_way.popleft()
            return messages.results(response, asked=len(asked.request.images))

        try:
            for request in requests:
                under_way.append(self._asked(CLASSIFY, request))
                if len(under_way) == self._calls_in_flight:
                    answers += yield from first()
            while under_way:
                answers += yield from first()
        finally:
            for asked in under_way:
                asked.call.cancel()
        return answers

    def _shrinking(self, found: list[Source], model: str, version: str) -> Conversation[list[Source]]:
        """The same images; large photos are reduced as they are read, where the model's size is known."""
        asked = [each for each in (yield from self._listing()) if each.name == model and version in ("", each.version)]
        if not asked:
            return found  # the server says what is wrong
        side = max(shrink.working_side(each.image_height, each.image_width, each.image_channels) for each in asked)
        return [replace(each, side=side) if each.may_shrink else each for each in found]

    def _listing(self) -> Conversation[list[ModelSummary]]:
        return messages.summaries((yield from self._ask(LIST_MODELS, pb.ListModelsRequest())))

    def _inference(
        self, model: str, inputs: Mapping[str, npt.ArrayLike], outputs: Sequence[str], version: str | int
    ) -> Conversation[TensorOutputs]:
        request = tensors.request(
            model, str(version), inputs, outputs, max_bytes=self._max_message_bytes - _MESSAGE_SLACK_BYTES
        )
        found = tensors.outputs((yield from self._ask(INFER, request, (model, str(version)))))
        if not found.keys() >= set(outputs):
            raise ServerFailure(
                f"the server answered the outputs {', '.join(found)} where {', '.join(outputs)} were asked"
            )
        return found

    def _catalogue(self) -> Conversation[ModelList]:
        """Everything that the server knows; a server may have either of the two services."""
        try:
            classifiers = yield from self._listing()
        except RequestRefused:  # it has no such service
            classifiers = []
            index = yield from self._ask(INDEX, oip.RepositoryIndexRequest())
        else:
            try:
                index = yield from self._ask(INDEX, oip.RepositoryIndexRequest())
            except RequestRefused:
                return ModelList(tuple(classifiers))
        listed = {(each.name, each.version) for each in classifiers}
        others: list[TensorModel] = []
        for entry in index.models:
            if entry.state == "READY" and (entry.name, entry.version) not in listed:
                try:
                    asked = oip.ModelMetadataRequest(name=entry.name, version=entry.version)
                    metadata = yield from self._ask(METADATA, asked, (entry.name, entry.version))
                except (ModelNotFound, ModelRefused):
                    continue  # it went between the two questions
                others.append(messages.tensor_model(metadata, entry.version))
        unserved = [
            UnservedModel(entry.name, entry.version, entry.state, entry.reason)
            for entry in index.models
            if entry.state != "READY"
        ]
        return ModelList(tuple(classifiers), tuple(others), tuple(unserved))

    def _asked(self, rpc: Rpc, request: Any) -> Asked:
        return Asked(rpc, request, self._send(rpc, request, self._timeout_s), time.monotonic())

    def _ask(self, rpc: Rpc, request: Any, model: tuple[str, str] | None = None) -> Conversation[Any]:
        return (yield from self._answer(self._asked(rpc, request), model))

    def _answer(self, asked: Asked, model: tuple[str, str] | None) -> Conversation[Any]:
        """Wait for a call; where a server that has answered before is away, send it again within its time limit.

        Raises ModelRefused at once where the server is there and does not serve the model; another ClientError.
        """
        call, first = asked.call, None
        for number, pause_s in enumerate(itertools.chain(_PAUSES_S, itertools.repeat(_PAUSES_S[-1]))):
            try:
                response = yield call
            except grpc.RpcError as caught:
                error = caught
            else:
                self._reached = True
                return response
            finally:
                call.cancel()
            self._reached |= error.code() not in _NO_ANSWER
            first = first or error
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and first is error:
                    first = (yield from self._absence()) or error
                told = first if error.code() in _NO_ANSWER else error
                raise self._error(told) from told
            if model is not None:
                yield from self._check_served(*model, error)
            left_s = asked.since + self._timeout_s - time.monotonic() - pause_s
            is_enough = number >= _FIRST_ATTEMPTS or asked.rpc in _REPEATED_BY_GRPC
            if left_s <= 0 or (is_enough and not self._reached):
                raise self._error(first) from first
            yield Pause(pause_s)
            call = self._send(asked.rpc, asked.request, left_s, wait_for_ready=self._reached)
        raise AssertionError("the pauses never end")

    def _absence(self) -> Conversation[grpc.RpcError | None]:
        """The error that tells that no server is there; None where one is, or may be."""
        call = self._send(INDEX, oip.RepositoryIndexRequest(ready=True), _PROBE_TIMEOUT_S)
        try:
            yield call
        except grpc.RpcError as error:
            return error if error.code() is grpc.StatusCode.UNAVAILABLE else None
        finally:
            call.cancel()
        return None

    def _check_served(self, name: str, version: str, error: grpc.RpcError) -> Conversation[None]:
        """Raise ModelRefused where the server's index tells that it does not serve the model."""
        call = self._send(INDEX, oip.RepositoryIndexRequest(), min(self._timeout_s, _INDEX_TIMEOUT_S))
        try:
            index = yield call
        except grpc.RpcError:
            return
        finally:
            call.cancel()
        self._reached = True
        entries = [each for each in index.models if each.name == name and version in ("", each.version)]
        if entries and all(each.state == "UNAVAILABLE" for each in entries):
            last = max(entries, key=lambda each: (len(each.version), each.version))
            raise ModelRefused(
                f"{self.target} does not serve model '{name}' version {last.version}: "
                f"{last.reason or 'it gives no reason'}"
            ) from error

    def _error(self, error: grpc.RpcError) -> ClientError:
        return client_error(error, target=self.target, timeout_s=self._timeout_s)


_NO_ANSWER = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
"""Codes that a client gives itself, without a word from the server."""
