"""What is told of a model: metadata, configuration and statistics, as messages of the Open Inference Protocol."""

from collections.abc import Mapping, Sequence

from ..batching.totals import Duration, Totals
from ..pb import open_inference_pb2 as pb
from ..runtime.endpoint import Endpoint
from ..tensors import DATATYPES, TensorSpec

PLATFORM = "onnxruntime_onnx"
DATA_TYPES = {name: getattr(pb, f"TYPE_{'STRING' if name == 'BYTES' else name}") for name in DATATYPES}
CHANNELS = (1, 3)
"""Of an image: grey, or red, green and blue."""


def model_metadata(endpoint: Endpoint, versions: Sequence[str]) -> pb.ModelMetadataResponse:
    """Inputs and outputs with all their axes, and what the file says of itself."""
    spec = endpoint.session.spec
    return pb.ModelMetadataResponse(
        name=endpoint.name,
        versions=versions,
        platform=PLATFORM,
        inputs=[_tensor_metadata(tensor) for tensor in spec.inputs],
        outputs=[_tensor_metadata(tensor) for tensor in spec.outputs],
        properties=endpoint.session.metadata.properties,
    )


def model_config(endpoint: Endpoint) -> pb.ModelConfig:
    """How the model is served; its dims leave the batch axis out where max_batch_size tells of it."""
    spec = endpoint.session.spec
    skip = 1 if spec.batches else 0
    config = pb.ModelConfig(
        name=endpoint.name,
        platform=PLATFORM,
        backend="onnxruntime",
        max_batch_size=endpoint.batcher.max_batch_rows if spec.batches else 0,
        default_model_filename=endpoint.file.path.name,
        input=[_model_input(tensor, tensor.shape[skip:], endpoint.file.config.formats) for tensor in spec.inputs],
        output=[
            pb.ModelOutput(name=tensor.name, data_type=DATA_TYPES[tensor.datatype.name], dims=tensor.shape[skip:])
            for tensor in spec.outputs
        ],
    )
    if spec.batches:
        config.dynamic_batching.SetInParent()
    else:
        config.parameters["unbatched_reason"].string_value = spec.unbatched_reason
    return config


def model_statistics(endpoint: Endpoint, counted: Totals) -> pb.ModelStatistics:
    """What was counted of a model version."""
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
            for rows, duration in sorted(counted.run_by_rows.items())
        ],
    )


def _tensor_metadata(tensor: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=tensor.name, datatype=tensor.datatype.name, shape=tensor.shape)


def _model_input(tensor: TensorSpec, dims: Sequence[int], formats: Mapping[str, str]) -> pb.ModelInput:
    configured = formats.get(tensor.name)
    chosen = _image_format(tensor, dims) if configured is None else configured
    return pb.ModelInput(name=tensor.name, data_type=DATA_TYPES[tensor.datatype.name], format=chosen, dims=dims)


def _image_format(tensor: TensorSpec, dims: Sequence[int]) -> "pb.ModelInput.Format":
    """Where an image's channels are; if both ends could be channels, whole numbers are pixels as files have them."""
    if len(dims) != 3:
        return pb.ModelInput.FORMAT_NONE
    first, last = dims[0] in CHANNELS, dims[2] in CHANNELS
    if last and (not first or tensor.datatype.numpy.kind == "u"):
        return pb.ModelInput.FORMAT_NHWC
    return pb.ModelInput.FORMAT_NCHW if first else pb.ModelInput.FORMAT_NONE


def _duration(duration: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=duration.count, ns=duration.ns)
