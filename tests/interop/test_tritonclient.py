"""The unmodified tritonclient, in an environment of its own, against the running server."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from service.client.dataset import read_mnist
from tests.servers import ROOT, ServerProcess

MODEL = "mnist-tiny"
TRITON_PYTHON = Path(os.environ.get("CONVSERVE_TRITONCLIENT_PYTHON", ROOT / ".venv-tritonclient" / "bin" / "python"))


def run_triton_script(script: Path, folder: Path, *arguments: object) -> str:
    """What a script prints that is run in this folder by an environment with tritonclient."""
    assert TRITON_PYTHON.exists(), f"{TRITON_PYTHON} is missing: `make test` makes it, an environment with tritonclient"
    # By file name, so that our packages are not on its path.
    command = [str(part) for part in (TRITON_PYTHON, script, *arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def images(data_dir: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The first eight images of MNIST's test set."""
    return read_mnist(data_dir).pictures[:8]


@pytest.fixture(scope="module")
def seen(server: ServerProcess, images: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What tritonclient saw."""
    path = tmp_path_factory.mktemp("triton") / "images.npy"
    np.save(path, images)
    script = Path(__file__).with_name("triton_session.py")
    document: dict[str, Any] = json.loads(run_triton_script(script, path.parent, server.address, MODEL, path))
    return document


@pytest.fixture(scope="module")
def logits(images: Any, models_dir: Path) -> Any:
    """What a session without any server says."""
    session = ort.InferenceSession(models_dir / MODEL / "1" / "model.onnx")
    return session.run(["logits"], {"images": images})[0]


def test_it_finds_the_server_ready(seen: dict[str, Any]) -> None:
    """The server is live and ready, its model too."""
    assert (seen["live"], seen["ready"], seen["model_ready"]) == (True, True, True)
    assert seen["server"]["name"] == "convserve"
    assert [MODEL, "READY"] in [[entry["name"], entry["state"]] for entry in seen["index"]["models"]]


def test_it_reads_metadata_and_config(seen: dict[str, Any]) -> None:
    assert seen["metadata_inputs"] == [["images", "UINT8", [-1, 28, 28, 1]]]
    assert seen["max_batch_size"] == 256


def test_it_gets_the_sessions_logits(seen: dict[str, Any], logits: Any) -> None:
    """The logits of one row and of many are those of a session."""
    assert seen["one_id"] == "one"
    assert np.allclose(seen["one"], logits[:1], atol=1e-5)
    assert np.allclose(seen["many"], logits, atol=1e-5)
    assert np.allclose(np.sum(seen["probabilities"], axis=1), 1)


def test_it_gets_them_asynchronously(seen: dict[str, Any], logits: Any) -> None:
    assert seen["async_errors"] == []
    assert np.allclose(seen["async"], sorted(logits.tolist()), atol=1e-5)


def test_streams_are_in_order(seen: dict[str, Any], logits: Any) -> None:
    """A stream gives the logits in order, and goes on after a refusal."""
    assert np.allclose(seen["stream"], logits, atol=1e-5)
    assert seen["stream_errors"] == ["Request for unknown model: 'nix' is not found"]


def test_it_reads_statistics(seen: dict[str, Any]) -> None:
    assert seen["executions"] > 0


def test_it_gets_classes_with_labels(seen: dict[str, Any], logits: Any) -> None:
    digits = np.argmax(logits, axis=1)
    assert [text.split(":")[1:] for text in seen["best"]] == [[str(digit)] * 2 for digit in digits]


def test_it_reads_our_refusals(seen: dict[str, Any]) -> None:
    assert seen["unknown_model"] == ["StatusCode.NOT_FOUND", "Request for unknown model: 'nix' is not found"]
    assert seen["unknown_model_ready"] == seen["unknown_model"]
    assert seen["wrong_shape"] == [
        "StatusCode.INVALID_ARGUMENT",
        f"unexpected shape for input 'images' for model '{MODEL}'. Expected [-1,28,28,1], got [8,27,28,1]",
    ]


def test_tritonclient_loads_and_unloads(transport: str, odd_models_dir: Path, tmp_path: Path) -> None:
    """Its load_model and unload_model have an effect that its index and is_model_ready show."""
    script = Path(__file__).with_name("triton_control.py")
    with ServerProcess(odd_models_dir, "--model-control", "explicit", transport=transport) as server:
        seen = json.loads(run_triton_script(script, tmp_path, server.address, "sum"))
    assert seen == {
        "before": [False, "UNAVAILABLE"],
        "loaded": [True, "READY"],
        "unloaded": [False, "UNAVAILABLE"],
    }
