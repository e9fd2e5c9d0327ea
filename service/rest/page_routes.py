"""The page at ``/``: files that a browser shows, and what was measured of the models that it shows.

The files lie beside this module, in ``page``: plain HTML, CSS and JavaScript, read once. A model's report and figure
come from its version's folder, each time it is asked for. The page loads nothing from anywhere else, which its
Content-Security-Policy forbids as well.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from string import Template

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

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


def page_routes(
    find_folder: Callable[[str, str], Path], check: Callable[[Request], None], *, max_bytes: int
) -> list[Route]:
    """The routes of the page.

    - ``find_folder``: the folder of a served model's version; raises what the application answers for one that is not
    - ``check``: raises what the application answers where a request may not see models
    - ``max_bytes``: largest picture that the server takes; the page refuses larger ones itself
    """
    files = {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.suffix in TYPES}
    index = Template(files.pop("index.html").decode()).substitute(max_bytes=max_bytes).encode()

    async def get_index(request: Request) -> Response:
        """The page itself."""
        return _respond(request, index, ".html")

    async def get_file(request: Request) -> Response:
        """One of the files that the page is made of."""
        name = request.path_params["file"]
        content = files.get(name)
        return _missing(f"the page has no file '{name}'") if content is None else _respond(request, content, name)

    def get_model_file(request: Request) -> Response:
        """What was measured of a model, or its figure; reading the disk, it runs in a thread."""
        check(request)
        name, version, file = (request.path_params[key] for key in ("model", "version", "file"))
        if file not in MODEL_FILES:
            return _missing(f"of a model's folder {' and '.join(MODEL_FILES)} can be had, not '{file}'")
        try:
            content = (find_folder(name, version) / file).read_bytes()
        except OSError:
            return _missing(f"the folder of model '{name}', version {version}, has no {file}")
        return _respond(request, content, file)

    return [
        Route("/", get_index),
        Route("/page/{file}", get_file),
        Route("/page/models/{model}/{version}/{file}", get_model_file),
    ]


def _respond(request: Request, content: bytes, name: str) -> Response:
    """The content with its type, or 304 where the browser has it already."""
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = HEADERS | {"ETag": tag}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=TYPES[name[name.rindex(".") :]])


def _missing(sentence: str) -> Response:
    return JSONResponse({"error": sentence}, 404, headers=HEADERS)
