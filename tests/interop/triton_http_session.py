"""Drives a server's HTTP port with the unmodified tritonclient; run by the Python of an environment that has it.

Prints one JSON object of what it saw.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

address, model, images_path = sys.argv[1:]
images = np.load(images_path)
client = triton.InferenceServerClient(address, concurrency=len(images), connection_timeout=60, network_timeout=60)


def as_input(array: Any, *, binary: bool = True) -> Any:
    tensor = triton.InferInput("images", list(array.shape), "UINT8")
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def wanted(*, binary: bool, classes: int = 0) -> list[Any]:
    return [triton.InferRequestedOutput("logits", binary_data=binary, class_count=classes)]


def refusal(call: Callable[[], object]) -> list[str]:
    try:
        call()
    except InferenceServerException as error:
        return [error.status(), error.message()]
    return ["no error", ""]


def logits(**options: Any) -> Any:
    return client.infer(model, [as_input(images)], **options).as_numpy("logits").tolist()


one = client.infer(model, [as_input(images[:1])], request_id="one")
best = client.infer(model, [as_input(images)], outputs=wanted(binary=False, classes=1), priority=1, timeout=60_000_000)
pending = [client.async_infer(model, [as_input(image[None])]) for image in images]
arrived = [request.get_result().as_numpy("logits")[0].tolist() for request in pending]
compressed = {"request_compression_algorithm": "gzip", "response_compression_algorithm": "deflate"}
print(
    json.dumps(
        {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model_ready": [client.is_model_ready(model), client.is_model_ready(model, "1")],
            "unknown_model_ready": client.is_model_ready("nix"),
            "server": client.get_server_metadata(),
            "metadata": client.get_model_metadata(model),
            "max_batch_size": client.get_model_config(model)["max_batch_size"],
            "index": [[entry["name"], entry["state"]] for entry in client.get_model_repository_index()],
            "one_id": one.get_response()["id"],
            "one": one.as_numpy("logits").tolist(),
            "binary": logits(),
            "binary_named": logits(outputs=wanted(binary=True)),
            "json": client.infer(model, [as_input(images, binary=False)], outputs=wanted(binary=False))
            .as_numpy("logits")
            .tolist(),
            "compressed": logits(**compressed),
            "async": arrived,
            "best": best.as_numpy("logits")[:, 0].tolist(),
            "executions": client.get_inference_statistics(model)["model_stats"][0]["execution_count"],
            "statistics": len(client.get_inference_statistics()["model_stats"]),
            "unknown_model": refusal(lambda: client.infer("nix", [as_input(images)])),
            "wrong_shape": refusal(lambda: client.infer(model, [as_input(images[:, :-1])])),
            "load": refusal(lambda: client.load_model(model)),
        }
    )
)
client.close()
