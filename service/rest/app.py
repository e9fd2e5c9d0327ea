"""The HTTP interface, put together: its routes, and what is answered where there is none."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .bodies import Bodies
from .classify import Classify
from .exchange import Exchange
from .gateway import Gateway
from .open_inference import OpenInference
from .operation import JSON, Operation, refuse
from .page_routes import FindFolder, page_routes
from .status import HttpRefusal

DESCRIPTION = Path(__file__).with_name("openapi.json")
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
"""What tells gRPC's clients what the OpenAPI document tells HTTP's: who may ask for one may ask for the other."""


def make_app(gateway: Gateway, bodies: Bodies, find_folder: FindFolder) -> Starlette:
    """The application that uvicorn serves; ``find_folder`` is for the page."""
    app = Starlette(
        routes=[*make_routes(gateway, bodies), *page_routes(gateway, find_folder, bodies.max_bytes)],
        exception_handlers={HTTPException: _no_route(gateway)},
    )
    app.router.redirect_slashes = False
    return app


def make_routes(gateway: Gateway, bodies: Bodies) -> list[Route]:
    """All operations."""
    return [
        *OpenInference(gateway, bodies).routes,
        *Classify(gateway, bodies).routes,
        Route("/openapi.json", Operation(gateway, REFLECTION, _description(DESCRIPTION.read_bytes())), methods=["GET"]),
    ]


def _description(document: bytes) -> Callable[[Exchange], Awaitable[Response]]:
    async def answer(_exchange: Exchange) -> Response:
        return Response(document, media_type=JSON)

    return answer


def _no_route(gateway: Gateway) -> Callable[[Request, Exception], Awaitable[Response]]:
    """What answers a path or a method that is not there: with tokens, no more than that one is needed."""

    async def answer(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - for the type checker
        exchange = Exchange(request.scope, request.receive)
        path = request.url.path
        try:
            gateway.check(path, exchange)
            if error.status_code == 405:
                allowed = (error.headers or {}).get("Allow", "")
                raise HttpRefusal(
                    405,
                    f"{request.method} is not for {path[:200]}: {allowed} is",
                    reason="unsupported",
                    headers={"Allow": allowed},
                )
            raise HttpRefusal(
                404, f"nothing is at {path[:200]}: /openapi.json says what there is", reason="unknown_path"
            )
        except Exception as refusal:
            return refuse(refusal, exchange)

    return answer
