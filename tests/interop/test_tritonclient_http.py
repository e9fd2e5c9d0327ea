"""The unmodified tritonclient over HTTP, in an environment of its own, against the running server."""

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime as ort
import pytest

from service.client.dataset import read_mnist
from tests.interop.test_tritonclient import run_triton_script
from tests.servers import ServerProcess

MODEL = "mnist-tiny"


@pytest.fixture(scope="module")
def images(data_dir: Path) -> Any:
    """The first eight images of MNIST's test set."""
    return read_mnist(data_dir).pictures[:8]


@pytest.fixture(scope="module")
def logits(images: Any, models_dir: Path) -> Any:
    """What a session without any server says."""
    session = ort.InferenceSession(models_dir / MODEL / "1" / "model.onnx")
    return session.run(["logits"], {"images": images})[0]


@pytest.fixture(scope="module")
def seen(images: Any, models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What tritonclient saw."""
    path = tmp_path_factory.mktemp("triton") / "images.npy"
    np.save(path, images)
    script = Path(__file__).with_name("triton_http_session.py")
    with ServerProcess(models_dir, "--models", MODEL, "--http-port", "0") as server:
        address = httpx.URL(server.url).netloc.decode()
        document: dict[str, Any] = json.loads(run_triton_script(script, path.parent, address, MODEL, path))
    return document


def test_it_finds_server_and_models(seen: dict[str, Any]) -> None:
    """It reads health, metadata, configuration, index and statistics."""
    assert (seen["live"], seen["ready"], seen["model_ready"]) == (True, True, [True, True])
    assert seen["unknown_model_ready"] is False
    assert seen["server"]["name"] == "convserve"
    assert seen["metadata"]["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 28, 28, 1]}]
    assert seen["max_batch_size"] == 256
    assert [MODEL, "READY"] in seen["index"]
    assert seen["executions"] > 0
    assert seen["statistics"] == 1


@pytest.mark.parametrize("form", ["binary", "binary_named", "json", "compressed", "async"])
def test_it_gets_the_sessions_logits(seen: dict[str, Any], logits: Any, form: str) -> None:
    """In each form of request the logits are those of a session."""
    assert np.allclose(seen[form], logits, atol=1e-5)
    assert seen["one_id"] == "one"
    assert np.allclose(seen["one"], logits[:1], atol=1e-5)


def test_it_gets_classes_with_labels(seen: dict[str, Any], logits: Any) -> None:
    """The classification extension works in JSON."""
    assert [text.split(":")[1:] for text in seen["best"]] == [[str(digit)] * 2 for digit in np.argmax(logits, axis=1)]


def test_it_reads_our_refusals(seen: dict[str, Any]) -> None:
    """It shows status and sentence of an error."""
    assert seen["unknown_model"] == ["404", "Request for unknown model: 'nix' is not found"]
    assert seen["wrong_shape"] == [
        "400",
        f"unexpected shape for input 'images' for model '{MODEL}'. Expected [-1,28,28,1], got [8,27,28,1]",
    ]
    assert seen["load"][0] == "501"
