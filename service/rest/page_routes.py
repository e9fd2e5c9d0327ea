"""The page at ``/``: files that a browser shows, and what was measured of the models that it shows.

The files lie beside this module, in ``page``: plain HTML, CSS and JavaScript, read once. They say nothing of this
server, so that they need no token. A model's report and figure come from its version's folder, each time they are
asked for, by the rights of ListModels. The page loads nothing from anywhere else, which its Content-Security-Policy
forbids as well.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from string import Template

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .classify import LIST_MODELS
from .exchange import Exchange
from .gateway import Gateway
from .operation import Operation
from .status import HttpRefusal

FOLDER = Path(__file__).parent / "page"
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
MODEL_FILES = ("report.json", "mistakes.png")
"""What the page shows of a model's folder, and all that can be had of it."""
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
"""``no-cache`` lets a browser keep a file, and ask each time whether it has changed."""

FindFolder = Callable[[str, str], Path]
"""The folder of a served model's version; raises a ServiceError for one that is not served."""


def page_routes(gateway: Gateway, find_folder: FindFolder, max_bytes: int) -> list[Route]:
    """The routes of the page; it refuses pictures of more than ``max_bytes`` before they are sent."""
    files = {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.suffix in TYPES}
    index = Template(files.pop("index.html").decode()).substitute(max_bytes=max_bytes).encode()
    files_and_index = [
        Route("/", _showing("index.html", index), methods=["GET"]),
        *(Route(f"/page/{name}", _showing(name, content), methods=["GET"]) for name, content in files.items()),
    ]

    async def show_model_file(exchange: Exchange) -> Response:
        """What was measured of a model, or its figure; a thread reads the disk."""
        name, version, file = (exchange.parts[key] for key in ("model", "version", "file"))
        if file not in MODEL_FILES:
            raise _missing(f"of a model's folder {' and '.join(MODEL_FILES)} can be had, not '{file[:80]}'")
        path = find_folder(name, version) / file
        try:
            content = await asyncio.to_thread(path.read_bytes)
        except OSError as error:
            raise _missing(f"the folder of model '{name}', version {version}, has no {file}") from error
        return _respond(content, file, exchange.header("if-none-match"))

    operation = Operation(gateway, LIST_MODELS, show_model_file)
    return [*files_and_index, Route("/page/models/{model}/{version}/{file}", operation, methods=["GET"])]


def _showing(name: str, content: bytes) -> Callable[[Request], Awaitable[Response]]:
    async def show(request: Request) -> Response:
        return _respond(content, name, request.headers.get("if-none-match"))

    return show


def _respond(content: bytes, name: str, known: str | None) -> Response:
    """The content with its type, or 304 where the browser has it already."""
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = HEADERS | {"ETag": tag}
    if tag in (known or ""):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=TYPES[name[name.rindex(".") :]])


def _missing(sentence: str) -> HttpRefusal:
    return HttpRefusal(404, sentence, reason="unknown_path")
