"""One operation of the HTTP interface, as an ASGI application: the way from a request to its response."""

import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ..rpc.call import REQUEST_ID, printable, request_id
from .exchange import Exchange
from .gateway import Gateway
from .lingering import LARGE_REST_BYTES, LingeringResponse
from .status import http_status_of

JSON = "application/json"
Answer = Callable[[Exchange], Awaitable[Response]]


class Operation:
    """What is done about one method of one path: the check of its RPC's token, its answer, or its error."""

    def __init__(self, gateway: Gateway, rpc: str, answer: Answer) -> None:
        """``rpc``: the full name of the gRPC method whose rights it needs."""
        self._gateway = gateway
        self._rpc = rpc
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        exchange = Exchange(scope, receive)
        try:
            self._gateway.check(self._rpc, exchange)
            response = await self._answer(exchange)
        except Exception as error:
            response = refuse(error, exchange)
        given = exchange.header(REQUEST_ID)
        if given is not None:
            send = partial(_send_with_id, send, printable(given))
        await response(scope, receive, send)


def plain_response(document: Any) -> Response:
    """A response of JSON."""
    return Response(to_json(document), media_type=JSON)


def to_json(document: Any) -> str:
    """The text of a document; raises ValueError for NaN."""
    return json.dumps(document, separators=(",", ":"), allow_nan=False)


def refuse(error: Exception, exchange: Exchange) -> Response:
    """The response that tells of an error; the rest of a long body is not waited for."""
    status = http_status_of(error, partial(request_id, exchange.header))
    content = to_json({"error": status.message})
    if exchange.is_read or not _has_long_body(exchange):
        return Response(content, status.code, status.headers, JSON)
    return LingeringResponse(content, status.code, status.headers | {"Connection": "close"}, JSON)


def _has_long_body(exchange: Exchange) -> bool:
    length = exchange.header("content-length")
    if length is None:
        return exchange.header("transfer-encoding") is not None
    return int(length) > LARGE_REST_BYTES


async def _send_with_id(send: Send, given: str, message: Message) -> None:
    if message["type"] == "http.response.start":
        message["headers"] = [*message["headers"], (REQUEST_ID.encode(), given.encode("latin-1", "replace"))]
    await send(message)
