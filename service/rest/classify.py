"""Images classified over HTTP: raw bytes or a form of files in, JSON out."""

import asyncio
import base64
import math
from typing import Any

import grpc
from starlette.responses import Response
from starlette.routing import Route

from ..api.image_classifier import SERVICE
from ..errors import InvalidRequest
from ..pb import image_classifier_pb2 as pb
from .bodies import ASIDE_BYTES, Bodies, compress
from .exchange import Exchange
from .gateway import Gateway
from .messages import to_plain
from .multipart import read_files
from .operation import JSON, Operation, plain_response
from .status import STATUSES

CLASSIFY, LIST_MODELS = f"/{SERVICE}/Classify", f"/{SERVICE}/ListModels"
QUERY = frozenset(("model", "version", "top_k", "include_logits", "include_input"))
FORM = "multipart/form-data"
FLAGS = {"1": True, "true": True, "": False, "0": False, "false": False}
MAX_TOP_K = 2**32 - 1
CODES = {code.value[0]: code for code in grpc.StatusCode}


class Classify:
    """Answers requests by the RPCs of ``convserve.v1.ImageClassifier``."""

    def __init__(self, gateway: Gateway, bodies: Bodies) -> None:
        self._gateway = gateway
        self._bodies = bodies

    @property
    def routes(self) -> list[Route]:
        """Its operations."""
        gateway = self._gateway
        return [
            Route("/v1/classify", Operation(gateway, CLASSIFY, self._classify), methods=["POST"]),
            Route("/v1/models", Operation(gateway, LIST_MODELS, self._list_models), methods=["GET"]),
        ]

    async def _classify(self, exchange: Exchange) -> Response:
        message = _read_query(exchange)
        body = await self._bodies.read(exchange)
        content_type = exchange.header("content-type") or ""
        names: list[str] | None = None
        if content_type.lower().startswith(FORM):
            if len(body) < ASIDE_BYTES:
                files = read_files(body, content_type)
            else:
                files = await asyncio.to_thread(read_files, body, content_type)
            names = [name for name, _ in files]
            message.images.extend(pb.Image(encoded=content) for _, content in files)
        else:
            message.images.add(encoded=body)
        answer = await self._gateway.call(CLASSIFY, message.SerializeToString(), exchange)
        response = pb.ClassifyResponse.FromString(answer)
        if names is None and response.results[0].HasField("error"):
            return _refused(response.results[0].error)
        results = [_result(result) for result in response.results]
        if names is not None:
            results = [{"name": name, **result} for name, result in zip(names, results, strict=True)]
        document = plain_response(
            {"model_name": response.model_name, "model_version": response.model_version, "results": results}
        )
        content, headers = await compress(bytes(document.body), exchange)
        return Response(content, headers=headers, media_type=JSON)

    async def _list_models(self, exchange: Exchange) -> Response:
        answer: Any = self._gateway.ask(LIST_MODELS, pb.ListModelsRequest(), exchange)
        return plain_response({"models": [_summary(model) for model in answer.models]})


def _read_query(exchange: Exchange) -> pb.ClassifyRequest:
    """The options of a request; raises InvalidRequest."""
    query = exchange.query(QUERY)
    if not query.get("model"):
        raise InvalidRequest("the query names no model: ?model=NAME is expected, and GET /v1/models lists them")
    top_k = query.get("top_k", "1")
    if not (top_k.isascii() and top_k.isdigit() and len(top_k) <= len(str(MAX_TOP_K)) and 0 < int(top_k) <= MAX_TOP_K):
        raise InvalidRequest(f"top_k is {top_k[:80]!r}: a whole number from 1 on is expected")
    return pb.ClassifyRequest(
        model_name=query["model"],
        model_version=query.get("version", ""),
        top_k=int(top_k),
        include_logits=_flag(query, "include_logits"),
        include_input=_flag(query, "include_input"),
    )


def _flag(query: dict[str, str], name: str) -> bool:
    value = FLAGS.get(query.get(name, "0").lower())
    if value is None:
        raise InvalidRequest(f"{name} is {query[name][:80]!r}: 1 or 0 is expected")
    return value


def _refused(error: pb.ImageError) -> Response:
    """The response to a request for one image that cannot be used."""
    response = plain_response({"error": error.message})
    response.status_code = STATUSES[CODES[error.code]]
    return response


def _result(result: pb.ImageResult) -> dict[str, Any]:
    if result.HasField("error"):
        return {"error": {"code": CODES[result.error.code].name, "message": result.error.message}}
    found = result.classification
    document: dict[str, Any] = {"classes": [to_plain(one) for one in found.classes]}
    if found.logits:
        document["logits"] = [logit if math.isfinite(logit) else None for logit in found.logits]
    if found.HasField("input"):
        pixels = found.input
        document["input"] = {
            "height": pixels.height,
            "width": pixels.width,
            "channels": pixels.channels,
            "pixels": base64.b64encode(pixels.data).decode(),
        }
    return document


def _summary(model: pb.ModelSummary) -> dict[str, Any]:
    document = to_plain(model)
    image = {side: document.pop(f"image_{side}") for side in ("height", "width", "channels")}
    return {**document, "image": image}
