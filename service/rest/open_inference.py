"""The Open Inference Protocol over HTTP, and Triton's extensions as tritonclient uses them."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from ..api.open_inference import SERVICE
from ..errors import InvalidRequest
from ..pb import open_inference_pb2 as pb
from ..rpc.status import count_failure
from . import messages
from .bodies import Bodies, compress
from .exchange import Exchange
from .gateway import Gateway
from .infer_request import read_infer, read_json
from .infer_response import is_long, write_infer
from .operation import JSON, Answer, Operation, plain_response
from .status import RETRY_S

BINARY = "application/octet-stream"
HEADER_LENGTH = "Inference-Header-Content-Length"
EXTENSION = "binary_tensor_data"
"""What this protocol has that gRPC does not need."""
MODEL = "/v2/models/{model}"
VERSION = f"{MODEL}/versions/{{version}}"
INDEX, LOAD, UNLOAD = "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"


class OpenInference:
    """Answers requests of the protocol by the RPCs of ``inference.GRPCInferenceService``."""

    def __init__(self, gateway: Gateway, bodies: Bodies) -> None:
        self._gateway = gateway
        self._bodies = bodies

    @property
    def routes(self) -> list[Route]:
        """Its operations; the busiest first, for they are looked through in order."""
        routes = [
            *(self._route("POST", f"{prefix}/infer", "ModelInfer", self._infer) for prefix in (MODEL, VERSION)),
            self._route("GET", "/v2/health/live", "ServerLive", self._live),
            self._route("GET", "/v2/health/ready", "ServerReady", self._ready),
            self._route("GET", "/v2", "ServerMetadata", self._server_metadata),
            self._route("GET", "/v2/models/stats", "ModelStatistics", self._statistics),
            self._route("POST", "/v2/repository/index", INDEX, self._index),
            self._route("POST", "/v2/repository/models/{model}/load", LOAD, self._load),
            self._route("POST", "/v2/repository/models/{model}/unload", UNLOAD, self._unload),
        ]
        for prefix in (MODEL, VERSION):
            routes += [
                self._route("GET", f"{prefix}/ready", "ModelReady", self._model_ready),
                self._route("GET", f"{prefix}/config", "ModelConfig", self._config),
                self._route("GET", f"{prefix}/stats", "ModelStatistics", self._statistics),
                self._route("GET", prefix, "ModelMetadata", self._model_metadata),
            ]
        return routes

    def _route(self, method: str, path: str, rpc: str, answer: Answer) -> Route:
        return Route(path, Operation(self._gateway, f"/{SERVICE}/{rpc}", answer), methods=[method])

    async def _infer(self, exchange: Exchange) -> Response:
        body = await self._bodies.read(exchange)
        with _counted():
            payload, form = read_infer(body, exchange.header(HEADER_LENGTH.lower()), *_model(exchange))
        del body  # the payload has a copy of its tensors
        answer = await self._gateway.call(f"/{SERVICE}/ModelInfer", payload, exchange)
        if is_long(answer):
            content, json_length = await asyncio.to_thread(write_infer, answer, form)
        else:
            content, json_length = write_infer(answer, form)
        content, headers = await compress(content, exchange)
        if json_length is None:
            return Response(content, headers=headers, media_type=JSON)
        return Response(content, headers=headers | {HEADER_LENGTH: str(json_length)}, media_type=BINARY)

    async def _live(self, exchange: Exchange) -> Response:
        return plain_response(await self._ask("ServerLive", pb.ServerLiveRequest(), exchange))

    async def _ready(self, exchange: Exchange) -> Response:
        return _readiness(await self._ask("ServerReady", pb.ServerReadyRequest(), exchange), "the server")

    async def _model_ready(self, exchange: Exchange) -> Response:
        name, version = _model(exchange)
        answer = await self._ask("ModelReady", pb.ModelReadyRequest(name=name, version=version), exchange)
        return _readiness({"name": name, **answer}, f"the model '{name}'")

    async def _server_metadata(self, exchange: Exchange) -> Response:
        answer = await self._ask("ServerMetadata", pb.ServerMetadataRequest(), exchange)
        answer["extensions"].append(EXTENSION)
        return plain_response(answer)

    async def _model_metadata(self, exchange: Exchange) -> Response:
        name, version = _model(exchange)
        return plain_response(
            await self._ask("ModelMetadata", pb.ModelMetadataRequest(name=name, version=version), exchange)
        )

    async def _config(self, exchange: Exchange) -> Response:
        name, version = _model(exchange)
        answer = await self._ask("ModelConfig", pb.ModelConfigRequest(name=name, version=version), exchange)
        return plain_response(answer["config"])

    async def _statistics(self, exchange: Exchange) -> Response:
        name, version = _model(exchange)
        return plain_response(
            await self._ask("ModelStatistics", pb.ModelStatisticsRequest(name=name, version=version), exchange)
        )

    async def _index(self, exchange: Exchange) -> Response:
        document = await self._document(exchange, "ready")
        ready = document.get("ready", False)
        if type(ready) is not bool:
            raise InvalidRequest("ready of the request is neither true nor false")
        return plain_response((await self._ask(INDEX, pb.RepositoryIndexRequest(ready=ready), exchange))["models"])

    async def _load(self, exchange: Exchange) -> Response:
        return await self._change(LOAD, pb.RepositoryModelLoadRequest(), exchange)

    async def _unload(self, exchange: Exchange) -> Response:
        return await self._change(UNLOAD, pb.RepositoryModelUnloadRequest(), exchange)

    async def _change(self, rpc: str, message: Any, exchange: Exchange) -> Response:
        """Has a model loaded or unloaded, by a request whose parameters are those of the RPC."""
        document = await self._document(exchange, "parameters")
        message.model_name = exchange.parts["model"]
        parameters = document.get("parameters", {})
        if type(parameters) is not dict:
            raise InvalidRequest("parameters of the request are no object")
        for name, value in parameters.items():
            if type(value) is bool:
                message.parameters[name].bool_param = value
            else:
                message.parameters[name].string_param = str(value)
        await self._gateway.call(f"/{SERVICE}/{rpc}", message.SerializeToString(), exchange)
        return plain_response({})

    async def _ask(self, rpc: str, message: Any, exchange: Exchange) -> dict[str, Any]:
        """The answer of an RPC as JSON."""
        path = f"/{SERVICE}/{rpc}"
        if self._gateway.is_immediate(path):
            answer = self._gateway.ask(path, message, exchange)
        else:
            payload = await self._gateway.call(path, message.SerializeToString(), exchange)
            answer = getattr(pb, f"{rpc}Response").FromString(payload)
        return messages.to_plain(answer)

    async def _document(self, exchange: Exchange, *known: str) -> dict[str, Any]:
        """The JSON of a request, which may have no body."""
        body = await self._bodies.read(exchange)
        document = read_json(body) if body else {}
        unknown = sorted(document.keys() - set(known))
        if unknown:
            raise InvalidRequest(f"the request has the unknown field '{unknown[0][:80]}'; {', '.join(known)} is known")
        return document


def _model(exchange: Exchange) -> tuple[str, str]:
    """The name and version in a request's path; empty where there is none."""
    parts = exchange.parts
    return parts.get("model", ""), parts.get("version", "")


def _readiness(answer: dict[str, Any], what: str) -> Response:
    """200 where it is ready, and 503 where it is not, as probes and load balancers read it."""
    response = plain_response(answer)
    if not answer["ready"]:
        response = plain_response({**answer, "error": f"{what} is not ready"})
        response.status_code = 503
        response.headers["Retry-After"] = str(RETRY_S)
    return response


@contextmanager
def _counted() -> Iterator[None]:
    """Counts a request that cannot be read as an inference call that failed, as gRPC does."""
    try:
        yield
    except Exception as error:
        count_failure(error, None)
        raise
