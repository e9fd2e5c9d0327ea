"""Inference requests over HTTP, put together and taken apart."""

import json
from typing import Any

import httpx
import numpy as np

from tests.wire import DATATYPES, Array, raw_bytes

NUMPY = {name: dtype for dtype, name in DATATYPES.items()}


def tensor(name: str, array: Array, **more: Any) -> dict[str, Any]:
    """An input without its elements."""
    datatype = "BYTES" if array.dtype == object else DATATYPES[array.dtype.name]
    return {"name": name, "shape": list(array.shape), "datatype": datatype, **more}


def in_json(array: Array, **more: Any) -> dict[str, Any]:
    """A request whose one input, x, is in its JSON."""
    return {"inputs": [tensor("x", array, data=array.reshape(-1).tolist())], **more}


def in_binary(array: Array, **more: Any) -> tuple[bytes, dict[str, str]]:
    """The body and header fields of a request whose one input, x, follows its JSON, and whose outputs shall too."""
    raw = raw_bytes(array)
    entry = tensor("x", array, parameters={"binary_data_size": len(raw)})
    text = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}, **more}).encode()
    return text + raw, {"Inference-Header-Content-Length": str(len(text))}


def outputs(response: httpx.Response) -> dict[str, Any]:
    """The outputs of a response by name, binary ones as arrays, others as JSON has them."""
    assert response.status_code == 200, response.text
    at = int(response.headers.get("inference-header-content-length", len(response.content)))
    found: dict[str, Any] = {}
    for output in json.loads(response.content[:at])["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            found[output["name"]] = output["data"]
            continue
        piece, at = response.content[at : at + size], at + size
        found[output["name"]] = np.frombuffer(piece, NUMPY[output["datatype"]]).reshape(output["shape"])
    return found


def error(response: httpx.Response) -> tuple[int, str]:
    """Status and sentence of a refusal."""
    document = response.json()
    assert list(document) == ["error"], document
    return response.status_code, document["error"]
