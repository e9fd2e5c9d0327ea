"""Drives a server with the unmodified tritonclient; run by the Python of an environment that has it.

Two packages that register ``inference.*`` cannot live in one process, so this file imports nothing
of ours. Prints one JSON object of what it saw.
"""

import json
import queue
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

address, model, images_path = sys.argv[1:]
images = np.load(images_path)
client = triton.InferenceServerClient(address)


def as_input(array: Any) -> Any:
    tensor = triton.InferInput("images", list(array.shape), "UINT8")
    tensor.set_data_from_numpy(array)
    return tensor


def refusal(call: Callable[[], object]) -> list[str]:
    try:
        call()
    except InferenceServerException as error:
        return [error.status(), error.message()]
    return ["no error", ""]


one = client.infer(model, [as_input(images[:1])], request_id="one")
many = client.infer(
    model,
    [as_input(images)],
    outputs=[triton.InferRequestedOutput("logits"), triton.InferRequestedOutput("probabilities")],
)
best = client.infer(
    model, [as_input(images)], outputs=[triton.InferRequestedOutput("probabilities", class_count=1)], priority=1
)
answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
for image in images:
    client.async_infer(
        model, [as_input(image[None])], callback=lambda result, error: answers.put((result, error)), client_timeout=60
    )
asynchronous = [answers.get(timeout=60) for _ in images]

streamed: queue.Queue[tuple[Any, Any]] = queue.Queue()
client.start_stream(callback=lambda result, error: streamed.put((result, error)))
for image in images:
    client.async_stream_infer(model, [as_input(image[None])])
client.async_stream_infer("nix", [as_input(images)])
stream_answers = [streamed.get(timeout=60) for _ in range(len(images) + 1)]
client.stop_stream()

metadata = client.get_model_metadata(model)
config = client.get_model_config(model).config
print(
    json.dumps(
        {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model_ready": client.is_model_ready(model),
            "server": client.get_server_metadata(as_json=True),
            "metadata_inputs": [[tensor.name, tensor.datatype, list(tensor.shape)] for tensor in metadata.inputs],
            "max_batch_size": config.max_batch_size,
            "index": client.get_model_repository_index(as_json=True),
            "one": one.as_numpy("logits").tolist(),
            "one_id": one.get_response().id,
            "many": many.as_numpy("logits").tolist(),
            "probabilities": many.as_numpy("probabilities").tolist(),
            "best": [text.decode() for text in best.as_numpy("probabilities")[:, 0]],
            "async_errors": [str(error) for _, error in asynchronous if error],
            "async": sorted(result.as_numpy("logits")[0].tolist() for result, error in asynchronous if not error),
            "stream": [result.as_numpy("logits")[0].tolist() for result, error in stream_answers if not error],
            "stream_errors": [error.message() for _, error in stream_answers if error],
            "executions": client.get_inference_statistics(model).model_stats[0].execution_count,
            "unknown_model": refusal(lambda: client.infer("nix", [as_input(images)])),
            "unknown_model_ready": refusal(lambda: client.get_model_metadata("nix")),
            "wrong_shape": refusal(lambda: client.infer(model, [as_input(images[:, :-1])])),
        }
    )
)
