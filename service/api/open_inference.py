"""The RPCs of the Open Inference Protocol, answered from the models of a repository."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from service.api import infer_request as inference
from service.api.infer_response import InferResponseEncoder
from service.api.request_scanner import RequestScanner
from service.batching.batch import TensorMap
from service.batching.request import Request
from service.batching.statistics import Duration
from service.errors import NotReady, Unsupported
from service.pb import open_inference_pb2 as pb
from service.rpc import BidiMethod, Call, ImmediateMethod, Methods
from service.runtime.repository import FILE_NAME, Endpoint, Repository
from service.tensors import DATATYPES, TensorSpec

SERVICE = "inference.GRPCInferenceService"
EXTENSIONS = ("classification", "model_configuration", "model_repository", "statistics")
PLATFORM = "onnxruntime_onnx"
DATA_TYPES = {name: getattr(pb, f"TYPE_{'STRING' if name == 'BYTES' else name}") for name in DATATYPES}


class InferenceProtocol:
    """Answers the RPCs of ``inference.GRPCInferenceService`` from the models of a repository."""

    def __init__(
        self, repository: Repository, *, server_name: str, server_version: str, is_ready: Callable[[], bool]
    ) -> None:
        self._repository = repository
        self._server_name = server_name
        self._server_version = server_version
        self._is_ready = is_ready
        self._scanner: RequestScanner[InferPlan] = RequestScanner()

    @property
    def methods(self) -> Methods:
        """The RPCs by full name."""
        cold = {
            "ServerLive": ImmediateMethod(pb.ServerLiveRequest, lambda _: pb.ServerLiveResponse(live=True)),
            "ServerReady": ImmediateMethod(
                pb.ServerReadyRequest, lambda _: pb.ServerReadyResponse(ready=self._is_ready())
            ),
            "ModelReady": ImmediateMethod(pb.ModelReadyRequest, self._model_ready),
            "ServerMetadata": ImmediateMethod(pb.ServerMetadataRequest, self._server_metadata),
            "ModelMetadata": ImmediateMethod(pb.ModelMetadataRequest, self._model_metadata),
            "ModelConfig": ImmediateMethod(pb.ModelConfigRequest, self._model_config),
            "ModelStatistics": ImmediateMethod(pb.ModelStatisticsRequest, self._model_statistics),
            "RepositoryIndex": ImmediateMethod(pb.RepositoryIndexRequest, self._repository_index),
            "RepositoryModelLoad": ImmediateMethod(pb.RepositoryModelLoadRequest, _no_loading),
            "RepositoryModelUnload": ImmediateMethod(pb.RepositoryModelUnloadRequest, _no_loading),
        }
        return Methods(
            deferred={f"/{SERVICE}/ModelInfer": self.model_infer},
            immediate={f"/{SERVICE}/{name}": method for name, method in cold.items()},
            bidi={f"/{SERVICE}/ModelStreamInfer": BidiMethod(self.model_infer, _stream_response)},
        )

    def model_infer(self, call: Call) -> None:
        """Reads, checks and queues; the endpoint's batcher answers."""
        payload = call.payload
        head = self._scanner.find(payload)
        if head is not None:
            known = head.plan
            endpoint, reply = known.endpoint, known.reply
            inputs: TensorMap = {head.spec.name: head.read(payload)}
            request = Request(
                inputs, known.rows, _answer(call, reply), signature=known.signature, deadline=call.deadline
            )
        else:
            message = inference.parse(payload)
            endpoint = self._repository.find(message.model_name, message.model_version)
            inputs, rows = inference.read_inputs(message, endpoint)
            wanted = inference.wanted_outputs(message, endpoint)
            reply = _reply(endpoint, message.id, wanted)
            deadline, priority = inference.queue_parameters(message, call.deadline)
            signature = tuple(array.shape[1:] for array in inputs.values())
            request = Request(
                inputs, rows, _answer(call, reply), signature=signature, deadline=deadline, priority=priority
            )
            self._remember(payload, message, inputs, InferPlan(endpoint, rows, signature, reply))
        endpoint.batcher.submit(request)
        call.on_cancel(lambda: endpoint.batcher.cancel(request))

    def _remember(self, payload: bytes, message: pb.ModelInferRequest, inputs: TensorMap, known: "InferPlan") -> None:
        """Remembers what a request said, unless it says more than a model and the shape of one tensor.

        Parameters may tell a time, and an id is another in every request.
        """
        raw = message.raw_input_contents
        if len(raw) != 1 or message.id or message.parameters:
            return
        spec = known.endpoint.session.spec.inputs[0]
        if not spec.datatype.numpy.hasobject:
            self._scanner.remember(payload, message, raw[0], b"", spec, inputs[spec.name], known)

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
        spec, metadata = endpoint.session.spec, endpoint.session.metadata
        return pb.ModelMetadataResponse(
            name=endpoint.name,
            versions=self._repository.versions(endpoint.name),
            platform=PLATFORM,
            inputs=[_tensor_metadata(tensor) for tensor in spec.inputs],
            outputs=[_tensor_metadata(tensor) for tensor in spec.outputs],
            properties=metadata.properties,
        )

    def _model_config(self, message: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        endpoint = self._repository.find(message.name, message.version)
        spec = endpoint.session.spec
        skip = 1 if spec.batches else 0  # dims leave the batch axis out where max_batch_size tells of it
        config = pb.ModelConfig(
            name=endpoint.name,
            platform=PLATFORM,
            backend="onnxruntime",
            max_batch_size=endpoint.batcher.max_batch_rows if spec.batches else 0,
            default_model_filename=FILE_NAME,
            input=[
                pb.ModelInput(
                    name=tensor.name,
                    data_type=DATA_TYPES[tensor.datatype.name],
                    format=pb.ModelInput.FORMAT_NHWC if spec.is_image_classifier else pb.ModelInput.FORMAT_NONE,
                    dims=tensor.shape[skip:],
                )
                for tensor in spec.inputs
            ],
            output=[
                pb.ModelOutput(name=tensor.name, data_type=DATA_TYPES[tensor.datatype.name], dims=tensor.shape[skip:])
                for tensor in spec.outputs
            ],
        )
        if spec.batches:
            config.dynamic_batching.SetInParent()
        else:
            config.parameters["unbatched_reason"].string_value = spec.unbatched_reason
        return pb.ModelConfigResponse(config=config)

    def _model_statistics(self, message: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        """Of one version, of all versions of a model, or of all models."""
        if message.name:
            chosen = [self._repository.find(message.name, message.version)]
            if not message.version:
                chosen = [endpoint for endpoint in self._repository if endpoint.name == message.name]
        else:
            chosen = list(self._repository)
        return pb.ModelStatisticsResponse(model_stats=[_statistics(endpoint) for endpoint in chosen])

    def _repository_index(self, message: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        models = [
            pb.RepositoryIndexResponse.ModelIndex(
                name=endpoint.name,
                version=endpoint.version,
                state="READY",
                reason=_remark(endpoint.session.spec.unbatched_reason),
            )
            for endpoint in self._repository
        ]
        if not message.ready:
            models += [
                pb.RepositoryIndexResponse.ModelIndex(
                    name=name, version=str(version), state="UNAVAILABLE", reason=reason
                )
                for name, versions in sorted(self._repository.rejected.items())
                for version, reason in sorted(versions.items())
            ]
        return pb.RepositoryIndexResponse(models=models)


@dataclass(frozen=True, slots=True)
class InferPlan:
    """What the head of a request says."""

    endpoint: Endpoint
    rows: int
    signature: tuple[tuple[int, ...], ...]
    reply: InferResponseEncoder


def _reply(endpoint: Endpoint, request_id: str, wanted: Sequence[tuple[TensorSpec, int]]) -> InferResponseEncoder:
    session = endpoint.session
    return InferResponseEncoder(
        endpoint.name,
        endpoint.version,
        request_id,
        wanted,
        labels=session.metadata.labels,
        batches=session.spec.batches,
    )


def _answer(call: Call, reply: InferResponseEncoder) -> Callable[[TensorMap | Exception], None]:
    """What gives a call its answer, from the outputs of its rows or from an error."""

    def answer(result: TensorMap | Exception) -> None:
        try:
            if isinstance(result, Exception):
                raise result
            call.respond(reply.encode(result))
        except Exception as error:
            call.fail(error)

    return answer


def _tensor_metadata(tensor: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=tensor.name, datatype=tensor.datatype.name, shape=tensor.shape)


def _stream_response(answer: bytes | str) -> bytes:
    """A message of ModelStreamInfer: the response of ModelInfer, or what its error says."""
    if isinstance(answer, str):
        return pb.ModelStreamInferResponse(error_message=answer).SerializeToString()
    return pb.ModelStreamInferResponse(infer_response=pb.ModelInferResponse.FromString(answer)).SerializeToString()


def _remark(unbatched_reason: str) -> str:
    """What an operator should know of a model that is ready."""
    return f"not batched: {unbatched_reason}" if unbatched_reason else ""


def _no_loading(_message: Any) -> pb.RepositoryModelLoadResponse:
    raise Unsupported("explicit model load / unload is not supported: the models are those of the folder at the start")


def _statistics(endpoint: Endpoint) -> pb.ModelStatistics:
    counted = endpoint.batcher.statistics
    return pb.ModelStatistics(
        name=endpoint.name,
        version=endpoint.version,
        last_inference=counted.last_run_ms,
        inference_count=counted.rows,
        execution_count=counted.runs,
        inference_stats=pb.InferStatistics(
            success=_duration(counted.success),
            fail=_duration(counted.fail),
            queue=_duration(counted.queue),
            compute_input=_duration(counted.join),
            compute_infer=_duration(counted.run),
            compute_output=_duration(counted.split),
        ),
        batch_stats=[
            pb.InferBatchStatistics(batch_size=rows, compute_infer=_duration(duration))
            for rows, duration in sorted(counted.run_by_rows.copy().items())
        ],
    )


def _duration(duration: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=duration.count, ns=duration.ns)
