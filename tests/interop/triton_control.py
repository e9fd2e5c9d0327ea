"""Loads and unloads a model with the unmodified tritonclient.

Run as ``triton_session.py`` is, by the Python of an environment of its own. Prints one JSON object of what it saw.
"""

import json
import sys

import tritonclient.grpc as triton

address, model = sys.argv[1:]
client = triton.InferenceServerClient(address)


def state() -> list[object]:
    """Whether the model is ready, and its entry of the index."""
    entries = [entry for entry in client.get_model_repository_index(as_json=True)["models"] if entry["name"] == model]
    return [client.is_model_ready(model), entries[0]["state"]]


seen = {"before": state()}
client.load_model(model)
seen["loaded"] = state()
client.unload_model(model, unload_dependents=True)
seen["unloaded"] = state()
print(json.dumps(seen))
