"""The Open Inference Protocol over HTTP, but for inference: what is told of server and models, and its document."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from openapi_spec_validator import validate
from starlette.routing import Route

import service
from service.rest import app
from service.rest.bodies import Bodies
from service.rest.gateway import Gateway
from service.rpc import FlushScope, Methods, TransportOptions
from tests.servers import ServerProcess
from tests.service.rest.requests import error

DOCUMENT = json.loads(app.DESCRIPTION.read_text())
PAGE = "/page"


def test_server_tells_of_itself(client: httpx.Client) -> None:
    """Liveness, readiness, name, version and extensions."""
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    metadata = client.get("/v2").json()
    assert (metadata["name"], metadata["version"]) == ("convserve", service.__version__)
    assert "binary_tensor_data" in metadata["extensions"]


def test_models_tell_of_themselves(client: httpx.Client) -> None:
    """Metadata and configuration have numbers where they are numbers."""
    for path in ("/v2/models/mnist-tiny", "/v2/models/mnist-tiny/versions/1"):
        metadata = client.get(path).json()
        assert metadata["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 28, 28, 1]}]
        assert metadata["versions"] == ["1"]
        assert client.get(f"{path}/ready").json() == {"name": "mnist-tiny", "ready": True}
        config = client.get(f"{path}/config").json()
        assert (config["max_batch_size"], config["input"][0]["data_type"]) == (256, "TYPE_UINT8")
        assert config["input"][0]["dims"] == [28, 28, 1]
        assert client.get(f"{path}/stats").json()["model_stats"][0]["name"] == "mnist-tiny"
    assert len(client.get("/v2/models/stats").json()["model_stats"]) == 2


def test_models_that_cannot_be_asked(odd_client: httpx.Client) -> None:
    """A rejected model is 503 and in the index with its reason; an unknown one is 404."""
    assert error(odd_client.get("/v2/models/nix/ready")) == (404, "Request for unknown model: 'nix' is not found")
    broken = odd_client.get("/v2/models/broken/ready")
    assert (broken.status_code, broken.json()["ready"]) == (503, False)
    assert error(odd_client.get("/v2/models/broken"))[0] == 503
    index = odd_client.post("/v2/repository/index").json()
    (entry,) = [entry for entry in index if entry["name"] == "broken"]
    assert (entry["state"], bool(entry["reason"])) == ("UNAVAILABLE", True)
    ready = odd_client.post("/v2/repository/index", json={"ready": True}).json()
    assert {entry["state"] for entry in ready} == {"READY"}
    assert error(odd_client.post("/v2/repository/index", json={"all": True}))[0] == 400


def test_models_are_loaded_and_unloaded(odd_models_dir: Path) -> None:
    """With --model-control explicit, both are seen at once; without it they are 501."""
    options = ("--model-control", "explicit", "--http-port", "0")
    with ServerProcess(odd_models_dir, *options) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        assert client.get("/v2/models/sum/ready").status_code == 503
        assert client.post("/v2/repository/models/sum/load").json() == {}
        assert client.get("/v2/models/sum/ready").status_code == 200
        unload = {"parameters": {"unload_dependents": False}}
        assert client.post("/v2/repository/models/sum/unload", json=unload).json() == {}
        assert client.get("/v2/models/sum/ready").status_code == 503
        status, sentence = error(client.post("/v2/repository/models/broken/load"))
        assert (status, sentence.startswith("failed to load 'broken', version 1")) == (400, True)
        parameters = {"parameters": {"config": "{}"}}
        status, sentence = error(client.post("/v2/repository/models/sum/load", json=parameters))
        assert (status, sentence.partition(":")[0]) == (501, "load parameters are not supported")


def test_changes_must_be_allowed(odd_client: httpx.Client) -> None:
    """Without --model-control explicit, loading is 501."""
    assert error(odd_client.post("/v2/repository/models/sum/load"))[0] == 501


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/mnist-tiny/infer", 405),
        ("POST", "/v2/health/live", 405),
        ("GET", "/v3", 404),
        ("GET", "/v2/", 404),
        ("GET", "/v2/models/../../etc/passwd", 404),
        ("DELETE", "/v1/models", 405),
    ],
)
def test_other_paths_are_refused(client: httpx.Client, method: str, path: str, status: int) -> None:
    """A path that is not there is 404, a method that is not for it 405, each with a sentence."""
    response = client.request(method, path)
    assert error(response)[0] == status
    assert ("allow" in response.headers) == (status == 405)


def test_document_is_served_and_valid(client: httpx.Client) -> None:
    """The OpenAPI document is one, and of this version."""
    assert client.get("/openapi.json").json() == DOCUMENT
    validate(DOCUMENT)
    assert DOCUMENT["info"]["version"] == service.__version__


def test_document_has_every_route() -> None:
    """Each path and method of the document has a route, and the other way round; the page is not described."""
    gateway = Gateway(Methods({}, {}), lambda: False, TransportOptions(2**20), FlushScope())
    routes = app.make_routes(gateway, Bodies(2**20))
    served = {(route.path, method) for route in routes for method in route.methods or () if method != "HEAD"}
    described = {(path, method.upper()) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert {place for place in served if place[0] != "/" and not place[0].startswith(PAGE)} == described


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    """All of the document."""
    return [(path, method, about) for path, methods in DOCUMENT["paths"].items() for method, about in methods.items()]


def test_operations_name_their_parameters() -> None:
    """Each operation describes the parts of its path, by one name of its own."""
    names = [about["operationId"] for _, _, about in operations()]
    assert len(set(names)) == len(names)
    for path, _, about in operations():
        described = {one["name"] for one in about.get("parameters", ()) if one["in"] == "path"}
        assert described == set(Route(path, lambda _: None).param_convertors)
