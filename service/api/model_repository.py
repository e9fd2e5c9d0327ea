"""The RPCs of the model_repository extension: what there is, and loading and unloading while it is served.

Triton: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_repository.md.
"""

import re
from collections.abc import Mapping
from functools import partial

from google.protobuf.message import DecodeError, Message

from ..errors import InvalidRequest, ModelChangeFailed, StartError, Unsupported
from ..pb import open_inference_pb2 as pb
from ..rpc import Call, Methods
from ..runtime.model_control import ModelControl
from ..runtime.model_folder import Place, parse_place
from ..runtime.process_report import READY, ProcessReport, State
from ..runtime.repository import Repository
from .outcomes import refusing

SERVICE = "inference.GRPCInferenceService"
UNLOAD_DEPENDENTS = "unload_dependents"
"""Of an unload: Triton unloads the models of an ensemble by it. There are no ensembles here."""


PATH = re.compile(r"(?<![\w.])(?:/[\w.+@~-]+){2,}")


class ModelRepository:
    """Answers RepositoryIndex, RepositoryModelLoad and RepositoryModelUnload."""

    def __init__(self, repository: Repository, control: ModelControl) -> None:
        self._repository = repository
        self._control = control

    @property
    def methods(self) -> Methods:
        """The RPCs by full name."""
        return Methods(
            deferred={
                f"/{SERVICE}/RepositoryIndex": refusing(self._index),
                f"/{SERVICE}/RepositoryModelLoad": refusing(self._load),
                f"/{SERVICE}/RepositoryModelUnload": refusing(self._unload),
            },
            immediate={},
        )

    def _index(self, call: Call) -> None:
        """Of all workers, as one."""
        try:
            message = pb.RepositoryIndexRequest.FromString(call.payload)
        except DecodeError as error:
            raise InvalidRequest("the message is not a RepositoryIndexRequest") from error

        def answer(report: ProcessReport) -> None:
            call.respond(
                pb.RepositoryIndexResponse(
                    models=[
                        pb.RepositoryIndexResponse.ModelIndex(
                            name=name, version=str(version), state=state, reason=_without_folders(reason)
                        )
                        for (name, version), (state, reason) in sorted(_by_place(report.states).items())
                        if state == READY or not message.ready
                    ]
                ).SerializeToString()
            )

        self._repository.gather(answer)

    def _load(self, call: Call) -> None:
        try:
            message = pb.RepositoryModelLoadRequest.FromString(call.payload)
        except DecodeError as error:
            raise InvalidRequest("the message is not a RepositoryModelLoadRequest") from error
        if message.parameters:
            names = ", ".join(sorted(message.parameters))
            raise Unsupported(
                f"load parameters are not supported: {names}. The model is loaded as the server's folder has it"
            )
        self._control.load(_name(message.model_name), partial(_answer, call, pb.RepositoryModelLoadResponse()))

    def _unload(self, call: Call) -> None:
        try:
            message = pb.RepositoryModelUnloadRequest.FromString(call.payload)
        except DecodeError as error:
            raise InvalidRequest("the message is not a RepositoryModelUnloadRequest") from error
        names = sorted(set(message.parameters) - {UNLOAD_DEPENDENTS})
        if names:
            raise Unsupported(f"unload parameters are not supported: {', '.join(names)}")
        self._control.unload(_name(message.model_name), partial(_answer, call, pb.RepositoryModelUnloadResponse()))


def _by_place(states: Mapping[str, State]) -> dict[Place, State]:
    return {parse_place(key): state for key, state in states.items()}


def _name(name: str) -> str:
    if not name:
        raise InvalidRequest("the request names no model")
    return name


def _answer(call: Call, response: Message, error: Exception | None) -> None:
    if error is None:
        call.respond(response.SerializeToString())
    else:
        is_told = isinstance(error, ModelChangeFailed | StartError)
        call.fail(ModelChangeFailed(_without_folders(str(error))) if is_told else error)


def _without_folders(text: str) -> str:
    """A sentence for callers: of the server's files it has the names alone."""
    return PATH.sub(lambda found: found[0].rpartition("/")[2], text)
