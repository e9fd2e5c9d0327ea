"""Triton's example clients: the steps that apply are done, and the others refused with a reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.interop.test_tritonclient import run_triton_script
from tests.servers import ServerProcess


@pytest.fixture(scope="module")
def seen(odd_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the clients saw."""
    script = Path(__file__).with_name("triton_examples.py")
    document: dict[str, Any] = json.loads(run_triton_script(script, tmp_path_factory.mktemp("t"), odd_server.address))
    return document


def test_image_client_gets_classes(seen: dict[str, Any]) -> None:
    """It finds channels first or last by the configuration, and labels behind value and index."""
    assert seen["images"] == {
        "colour": {"format": "FORMAT_NHWC", "shape": [2, 2], "parts": [3] * 4},
        "channels-first-classes": {"format": "FORMAT_NCHW", "shape": [2, 2], "parts": [3] * 4},
    }


def test_explicit_contents_are_taken(seen: dict[str, Any]) -> None:
    """As by grpc_explicit_int_content_client and its like."""
    assert seen["explicit"] == [2.0 * number for number in range(16)]


def test_streamed_answers_are_final(seen: dict[str, Any]) -> None:
    """Each has its request's id, and ends it: nobody waits for an empty response."""
    assert seen["streamed"] == [{"id": "one", "final": True}, {"id": "two", "final": True}]


def test_shared_memory_is_refused(seen: dict[str, Any]) -> None:
    """Its clients first unregister all, which is done, and then hear why they cannot register."""
    assert seen["regions"] == [0, 0]
    assert seen["register"] == [
        "StatusCode.UNIMPLEMENTED",
        "shared memory is not supported: send tensors in the request, as raw_input_contents",
    ]


def test_sequences_are_refused(seen: dict[str, Any]) -> None:
    """No model keeps anything from one request to the next."""
    assert seen["sequence"][0] == "StatusCode.INVALID_ARGUMENT"
    assert "sequence_id" in seen["sequence"][1]


def test_errors_have_tritons_words(seen: dict[str, Any]) -> None:
    """Of a version that is no number, and of loading by request."""
    assert seen["version"] == [
        "StatusCode.INVALID_ARGUMENT",
        "failed to get model version from specified version string 'one', version should be an integral value > 0",
    ]
    assert seen["load"][0] == "StatusCode.UNIMPLEMENTED"


def test_an_answered_request_is_counted(seen: dict[str, Any]) -> None:
    """Statistics that are asked for after the answers hold them: one unary, one explicit, two streamed."""
    assert seen["counted"] == 4
