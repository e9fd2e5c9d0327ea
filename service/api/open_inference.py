"""The RPCs of the Open Inference Protocol, answered from the models of a repository."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from google.protobuf.message import DecodeError

from ..batching.batch import TensorMap
from ..batching.request import Request
from ..errors import InvalidRequest, NotReady, Unsupported
from ..pb import open_inference_pb2 as pb
from ..rpc import BidiMethod, Call, ImmediateMethod, Methods
from ..runtime.repository import Repository
from . import infer_request, model_reports, outcomes
from .infer_plan import InferPlan, InferPlans, is_reusable, make_plan
from .model_errors import ModelErrors
from .protobuf_wire import bytes_field
from .request_scanner import scan

SERVICE: Final = "inference.GRPCInferenceService"
EXTENSIONS: Final = ("classification", "model_configuration", "model_repository", "statistics")
STREAMED: Final = pb.ModelStreamInferResponse.INFER_RESPONSE_FIELD_NUMBER
FINAL: Final = pb.ModelInferResponse(
    parameters={"triton_final_response": pb.InferParameter(bool_param=True)}
).SerializeToString()
"""What a response has besides in a stream: each is the last one of its request."""


def _given_id(payload: bytes) -> str:
    """The id of a ModelInfer request; empty where it has none, or cannot be read."""
    scanned = scan(payload)
    try:
        return pb.ModelInferResponse.FromString(scanned[1]).id if scanned is not None else ""
    except DecodeError:
        return ""


GIVEN_IDS: Final = dict.fromkeys((f"/{SERVICE}/ModelInfer", f"/{SERVICE}/ModelStreamInfer"), _given_id)
"""What reads the ids of requests, by method."""


class InferenceProtocol:
    """Answers the RPCs of ``inference.GRPCInferenceService`` from the models of a repository."""

    def __init__(
        self,
        repository: Repository,
        *,
        server_name: str,
        server_version: str,
        is_ready: Callable[[], bool],
        model_errors: ModelErrors | None = None,
    ) -> None:
        self._repository = repository
        self._server_name = server_name
        self._server_version = server_version
        self._is_ready = is_ready
        self._model_errors = model_errors or ModelErrors()
        self._plans = InferPlans()
        self._epoch = repository.epoch
        repository.on_change(self._plans.clear)  # else they would keep what is served no longer until the next request

    @property
    def methods(self) -> Methods:
        """The RPCs by full name."""
        immediate = {
            "ServerLive": ImmediateMethod(pb.ServerLiveRequest, lambda _: pb.ServerLiveResponse(live=True)),
            "ServerReady": ImmediateMethod(
                pb.ServerReadyRequest, lambda _: pb.ServerReadyResponse(ready=self._is_ready())
            ),
            "ModelReady": ImmediateMethod(pb.ModelReadyRequest, self._model_ready),
            "ServerMetadata": ImmediateMethod(pb.ServerMetadataRequest, self._server_metadata),
            "ModelMetadata": ImmediateMethod(pb.ModelMetadataRequest, self._model_metadata),
            "ModelConfig": ImmediateMethod(pb.ModelConfigRequest, self._model_config),
            **_shared_memory("System"),
            **_shared_memory("Cuda"),
        }
        return Methods(
            deferred={f"/{SERVICE}/ModelInfer": self.model_infer},
            immediate={f"/{SERVICE}/{name}": method for name, method in immediate.items()},
            bidi={f"/{SERVICE}/ModelStreamInfer": BidiMethod(self.model_infer, _streamed)},
        )

    def model_infer(self, call: Call) -> None:
        """Reads, checks and queues; the endpoint's batcher answers."""
        payload = call.payload
        if self._epoch != self._repository.epoch:
            self._epoch = self._repository.epoch
            self._plans.clear()
        scanned = scan(payload)
        plan = self._plans.find(scanned[0]) if scanned is not None else None
        if scanned is not None and plan is not None:
            _, id_field, parameters, places = scanned
            inputs = plan.read(payload, places)
            queue = infer_request.read_parameters(parameters) if parameters else infer_request.PLAIN_QUEUE
        else:
            message = infer_request.parse(payload)
            endpoint = call.model = self._repository.find(message.model_name, message.model_version)
            with outcomes.naming(endpoint):
                plan, inputs = make_plan(message, endpoint)
                queue = infer_request.queue_options(message.parameters)
            id_field = pb.ModelInferResponse(id=message.id).SerializeToString()
            if scanned is not None and is_reusable(message, plan):
                self._plans.remember(scanned[0], plan)
        batcher = plan.endpoint.batcher
        call.model = plan.endpoint
        request = call.request = Request(
            inputs,
            plan.rows,
            _Completion(call, plan, id_field, self._model_errors),
            signature=plan.signature,
            deadline=queue.deadline(call.deadline),
            priority=queue.priority,
            source=call.source,
        )
        try:
            batcher.submit(request)
        except Exception as error:
            outcomes.name_model(error, plan.endpoint)
            raise
        call.on_cancel(partial(batcher.cancel, request))

    def _model_ready(self, message: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        try:
            self._repository.find(message.name, message.version)
        except NotReady:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self._is_ready())

    def _server_metadata(self, _message: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name=self._server_name, version=self._server_version, extensions=EXTENSIONS)

    def _model_metadata(self, message: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        endpoint = self._repository.find(message.name, message.version)
        return model_reports.model_metadata(endpoint, self._repository.versions(endpoint.name))

    def _model_config(self, message: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        endpoint = self._repository.find(message.name, message.version)
        return pb.ModelConfigResponse(config=model_reports.model_config(endpoint))


class _Completion:
    """Answers a call, from the outputs of its rows or from an error.

    A closure would be six objects for the garbage collector to walk, which cost 0.7 µs a request.
    """

    __slots__ = ("_call", "_id_field", "_model_errors", "_plan")

    def __init__(self, call: Call, plan: InferPlan, id_field: bytes, model_errors: ModelErrors) -> None:
        self._call = call
        self._plan = plan
        self._id_field = id_field
        self._model_errors = model_errors

    def __call__(self, result: TensorMap | Exception) -> None:
        if isinstance(result, Exception):
            outcomes.fail(self._call, self._explain(result), self._plan.endpoint)
            return
        try:
            response = self._plan.encoder.encode(result, self._id_field)
        except Exception as error:
            outcomes.fail(self._call, error, self._plan.endpoint)
        else:
            outcomes.respond(self._call, response, self._plan.endpoint)

    def _explain(self, error: Exception) -> Exception:
        request_id = self._call.request_id(pb.ModelInferResponse.FromString(self._id_field).id)
        shapes = [tensor.shape for tensor in self._plan.tensors]
        return self._model_errors.for_caller(error, self._plan.endpoint, request_id, shapes)


def _streamed(payload: bytes, answer: bytes | str) -> bytes:
    """A message of ModelStreamInfer: the response of ModelInfer to this request, or what its error says."""
    if isinstance(answer, bytes):
        return bytes_field(STREAMED, len(answer) + len(FINAL)) + answer + FINAL
    try:
        request_id = infer_request.parse(payload).id
    except InvalidRequest:
        request_id = ""
    response = pb.ModelStreamInferResponse(error_message=answer)
    response.infer_response.MergeFromString(FINAL)
    response.infer_response.id = request_id
    return response.SerializeToString()


def _shared_memory(kind: str) -> dict[str, ImmediateMethod]:
    """The RPCs of one kind of shared memory: there is none, so unregistering is done and registering refused."""

    def message(name: str) -> Any:
        return getattr(pb, f"{kind}SharedMemory{name}")

    status, unregister = message("StatusResponse"), message("UnregisterResponse")
    return {
        f"{kind}SharedMemoryStatus": ImmediateMethod(message("StatusRequest"), lambda _: status()),
        f"{kind}SharedMemoryRegister": ImmediateMethod(message("RegisterRequest"), _no_shared_memory),
        f"{kind}SharedMemoryUnregister": ImmediateMethod(message("UnregisterRequest"), lambda _: unregister()),
    }


def _no_shared_memory(_message: Any) -> Any:
    raise Unsupported("shared memory is not supported: send tensors in the request, as raw_input_contents")


def _remark(unbatched_reason: str) -> str:
    """What an operator should know of a model that is ready."""
    return f"not batched: {unbatched_reason}" if unbatched_reason else ""
