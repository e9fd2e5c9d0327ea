"""Does what Triton's example clients for Python do, with the unmodified tritonclient.

Run as ``triton_session.py`` is, by the Python of an environment of its own. Prints one JSON object of what it saw.
"""

import json
import queue
import sys
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as triton
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

(address,) = sys.argv[1:]
client = triton.InferenceServerClient(address)


def refusal(call: Callable[[], object]) -> list[str]:
    try:
        call()
    except InferenceServerException as error:
        return [error.status(), error.message()]
    return ["no error", ""]


def image_client(model: str) -> dict[str, Any]:
    """Finds the input's layout in the configuration, and asks for the two best classes of the last output."""
    config, metadata = client.get_model_config(model).config, client.get_model_metadata(model)
    layout = model_config_pb2.ModelInput.Format.Name(config.input[0].format)
    shape = list(metadata.inputs[0].shape)
    assert len(shape) == len(config.input[0].dims) + 1
    pixels = np.arange(2 * np.prod(shape[1:])).reshape([2, *shape[1:]])
    datatype = metadata.inputs[0].datatype
    tensor = triton.InferInput(metadata.inputs[0].name, list(pixels.shape), datatype)
    tensor.set_data_from_numpy(pixels.astype({"UINT8": np.uint8, "FP32": np.float32}[datatype]))
    output = metadata.outputs[-1].name
    result = client.infer(model, [tensor], outputs=[triton.InferRequestedOutput(output, class_count=2)])
    texts = result.as_numpy(output)
    return {
        "format": layout,
        "shape": list(texts.shape),
        "parts": [len(text.decode().split(":")) for text in texts.reshape(-1)],
    }


def tensor_of(name: str, array: Any) -> Any:
    tensor = triton.InferInput(name, list(array.shape), "FP32")
    tensor.set_data_from_numpy(array)
    return tensor


def explicit_contents() -> list[float]:
    """A request without raw contents, over the generated stub."""
    request = service_pb2.ModelInferRequest(model_name="sum")
    for name in ("left", "right"):
        tensor = request.inputs.add(name=name, datatype="FP32", shape=[1, 16])
        tensor.contents.fp32_contents[:] = range(16)
    with grpc.insecure_channel(address) as channel:
        response = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60)
    values: list[float] = np.frombuffer(response.raw_output_contents[0], np.float32).tolist()
    return values


def streamed() -> list[dict[str, Any]]:
    """Two requests with ids on a stream, the second without an empty final response of its own."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    ones = np.ones((1, 16), np.float32)
    inputs = [tensor_of("left", ones), tensor_of("right", ones)]
    for name in ("one", "two"):
        client.async_stream_infer("sum", inputs, request_id=name, enable_empty_final_response=name == "two")
    responses = [answers.get(timeout=60)[0].get_response() for _ in range(2)]
    client.stop_stream()
    return [
        {"id": response.id, "final": response.parameters["triton_final_response"].bool_param} for response in responses
    ]


ones = np.ones((1, 16), np.float32)
inputs = [tensor_of("left", ones), tensor_of("right", ones)]
client.unregister_system_shared_memory()
client.unregister_cuda_shared_memory()
before = client.get_inference_statistics("sum").model_stats[0].inference_count
client.infer("sum", inputs)
print(
    json.dumps(
        {
            "images": {model: image_client(model) for model in ("colour", "channels-first-classes")},
            "explicit": explicit_contents(),
            "streamed": streamed(),
            "regions": [
                len(client.get_system_shared_memory_status().regions),
                len(client.get_cuda_shared_memory_status().regions),
            ],
            "register": refusal(lambda: client.register_system_shared_memory("a", "/a", 64)),
            "sequence": refusal(lambda: client.infer("sum", inputs, sequence_id=1, sequence_start=True)),
            "version": refusal(lambda: client.infer("sum", inputs, model_version="one")),
            "load": refusal(lambda: client.load_model("sum")),
            "counted": client.get_inference_statistics("sum").model_stats[0].inference_count - before,
        }
    )
)
