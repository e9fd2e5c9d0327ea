"""Images classified over HTTP: bytes or a form in, labels out."""

import base64
import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from service.client import Classification, Client
from tests.servers import ROOT, ServerProcess
from tests.service.rest.requests import error

PICTURES = ROOT / "tests" / "pictures"
SHIP, SEVEN = (PICTURES / "ship.png").read_bytes(), (PICTURES / "seven.png").read_bytes()
CLASSIFY = "/v1/classify"


def ask(client: httpx.Client, content: bytes = SHIP, model: str = "cifar10-cnn", **query: Any) -> httpx.Response:
    """A request for one image."""
    return client.post(CLASSIFY, params={"model": model, **query}, content=content)


def test_image_gets_its_label(client: httpx.Client) -> None:
    """The bytes of a file are answered with model, version and the best class."""
    document = ask(client).json()
    (result,) = document.pop("results")
    assert document == {"model_name": "cifar10-cnn", "model_version": "1"}
    (best,) = result.pop("classes")
    assert result == {}
    assert (best["index"], best["label"]) == (8, "ship")
    assert 0.5 < best["probability"] <= 1


def test_results_are_those_of_grpc(client: httpx.Client, rest_server: ServerProcess) -> None:
    """Classes, probabilities and logits are the same over both protocols."""
    (result,) = ask(client, top_k=10, include_logits=1).json()["results"]
    with Client(rest_server.address) as grpc_client:
        expected = grpc_client.classify([SHIP], model="cifar10-cnn", top_k=10, logits=True)[0]
    assert isinstance(expected, Classification)
    assert [one["probability"] for one in result["classes"]] == [one.probability for one in expected.classes]
    assert result["logits"] == list(expected.logits)


def test_input_is_what_the_model_saw(client: httpx.Client) -> None:
    """The pixels that come back are the image's own where it has the model's size, and give the same answer."""
    (result,) = ask(client, include_input=1, include_logits=1).json()["results"]
    seen = result["input"]
    assert (seen["height"], seen["width"], seen["channels"]) == (32, 32, 3)
    pixels = np.frombuffer(base64.b64decode(seen["pixels"]), np.uint8).reshape(32, 32, 3)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    (again,) = ask(client, buffer.getvalue(), include_input=1, include_logits=1).json()["results"]
    assert again == result


def test_form_has_several_images(client: httpx.Client) -> None:
    """Each file of a form has a result with its name, in order; one that cannot be used harms no other."""
    files = [
        ("image", ("ship.png", SHIP, "image/png")),
        ("image", ("notes.txt", b"no image", "text/plain")),
        ("other", ("frog.png", (PICTURES / "frog.png").read_bytes(), "image/png")),
    ]
    response = client.post(CLASSIFY, params={"model": "cifar10-cnn", "include_input": "true"}, files=files)
    assert response.status_code == 200
    ship, notes, frog = response.json()["results"]
    assert [result["name"] for result in (ship, notes, frog)] == ["ship.png", "notes.txt", "frog.png"]
    assert ship["classes"][0]["label"] == "ship"
    assert frog["classes"][0]["label"] == "frog"
    assert len(base64.b64decode(frog["input"]["pixels"])) == 32 * 32 * 3
    assert notes["error"]["code"] == "INVALID_ARGUMENT"
    assert notes["error"]["message"].startswith("the image is of no known format")


def test_curl_sends_an_image(rest_server: ServerProcess) -> None:
    """The command line of the documents works: curl says that it sends a form, and it is an image."""
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    url = f"{rest_server.url}/v1/classify?model=mnist-tiny"
    command = [curl, "--silent", "--data-binary", f"@{PICTURES / 'seven.png'}", url]
    printed = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    assert json.loads(printed)["results"][0]["classes"][0]["label"] == "7"


def test_models_are_listed(client: httpx.Client) -> None:
    """The list has what a page needs to offer a model."""
    first, second = client.get("/v1/models").json()["models"]
    assert [first["name"], second["name"]] == ["cifar10-cnn", "mnist-tiny"]
    assert second["image"] == {"height": 28, "width": 28, "channels": 1}
    assert second["labels"] == [str(digit) for digit in range(10)]
    assert 0.9 < second["test_accuracy"] < 1
    assert set(second) == {
        *("name", "version", "labels", "dataset", "test_accuracy"),
        *("precision", "provider", "image", "parameters", "images_per_s_alone", "images_per_s"),
    }


@pytest.mark.parametrize(
    ("query", "content", "status", "words"),
    [
        ({}, SHIP, 400, "the query names no model"),
        ({"model": "nix"}, SHIP, 404, "Request for unknown model: 'nix' is not found"),
        ({"model": "mnist-tiny", "version": "7"}, SHIP, 404, "'mnist-tiny' version 7 is not found"),
        ({"model": "mnist-tiny", "version": "x"}, SHIP, 400, "version should be an integral value"),
        ({"model": "mnist-tiny", "top_k": "0"}, SHIP, 400, "top_k is '0'"),
        ({"model": "mnist-tiny", "top_k": "-1"}, SHIP, 400, "top_k is '-1'"),
        ({"model": "mnist-tiny", "top_k": "9" * 10}, SHIP, 400, "top_k is '9999999999'"),
        ({"model": "mnist-tiny", "include_logits": "maybe"}, SHIP, 400, "include_logits is 'maybe'"),
        ({"model": "mnist-tiny", "topk": "1"}, SHIP, 400, "the query has 'topk'"),
        ({"model": ["mnist-tiny", "cifar10-cnn"]}, SHIP, 400, "the query has a field twice"),
        ({"model": "mnist-tiny"}, b"", 400, "the image is empty"),
        ({"model": "mnist-tiny"}, b"<svg/>", 400, "the image is"),
        ({"model": "mnist-tiny"}, SHIP[:100], 400, "the image is broken"),
    ],
)
def test_wrong_requests_are_refused(
    client: httpx.Client, query: dict[str, str], content: bytes, status: int, words: str
) -> None:
    """A request that cannot be answered has a status and a sentence."""
    told = error(client.post(CLASSIFY, params=query, content=content))
    assert told[0] == status
    assert words in told[1]


@pytest.mark.parametrize(
    ("content_type", "body", "words"),
    [
        ("multipart/form-data", b"", "has no boundary"),
        ("multipart/form-data; boundary=b", b"--c\r\n", "is no multipart/form-data"),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\nx", "ends in the middle"),
        ("multipart/form-data; boundary=b", b"--b--\r\n", "the call has no images"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n3\r\n--b--\r\n',
            "the form's field 'top_k' is no file",
        ),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\nx\r\n" * 5000 + b"--b--\r\n", "more than 4096 parts"),
    ],
    ids=["no boundary", "another boundary", "no end", "no parts", "a field", "many parts"],
)
def test_wrong_forms_are_refused(client: httpx.Client, content_type: str, body: bytes, words: str) -> None:
    """A form that cannot be read is 400."""
    headers = {"Content-Type": content_type}
    status, sentence = error(client.post(CLASSIFY, params={"model": "mnist-tiny"}, content=body, headers=headers))
    assert status == 400
    assert words in sentence


def test_models_without_images_are_named(odd_client: httpx.Client) -> None:
    """A model that takes tensors says so."""
    status, sentence = error(ask(odd_client, model="sum"))
    assert (status, "does not classify images" in sentence) == (400, True)


def test_large_images_come_back(client: httpx.Client, tmp_path: Path) -> None:
    """A photo of some megapixels is decoded by the pool, and answered."""
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.jpg")
    (result,) = ask(client, (tmp_path / "noise.jpg").read_bytes(), include_input=1).json()["results"]
    assert len(result["classes"]) == 1
    assert result["input"]["height"] == 32
