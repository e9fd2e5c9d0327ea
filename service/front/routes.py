"""Where a call goes, how often it is tried, and what is answered here."""

from .clusters import GRPC, HTTP
from .extension import extension
from .settings import FrontSettings
from .yaml_text import Data

OPEN_PREFIXES = ("/grpc.health.v1.Health/", "/grpc.reflection.v1.ServerReflection/", "/v2/health/")
OPEN_PATHS = (
    *(f"/inference.GRPCInferenceService/{name}" for name in ("ServerLive", "ServerReady", "ModelReady")),
    "/openapi.json",
    "/",
)
OPEN_PATTERNS = ("/v2/models/[^/]+(/versions/[^/]+)?/ready", "/page/[^/]+")
"""What needs no token and no JWT: health, readiness, reflection and the page itself, as in the servers."""
HTTP_CALL_S, HTTP_TRY_S = 60, 5
"""An HTTP call has no deadline of its caller's: how long it may take, and how long one server may be silent."""
FIRST_PAUSE_S, LAST_PAUSE_S = 0.005, 0.1
"""How long to wait before a call is repeated, at first and at most; a random part of it."""
OTHER_HOST_DRAWS = 100
"""How often to draw again for a server that has not been tried. One that has just died has no calls in flight, so it is
drawn most: with 5, 2 of 3,000 calls failed when two of three servers were killed at once."""
MIB = 2**20
NO_HTTP = "This address serves gRPC alone. Start the servers with --http-port, and write the front with --http-hosts."
WITHOUT_TOKEN = "This call needs the header field 'authorization: Bearer TOKEN'; the server's operator makes tokens."  # noqa: S105 - a sentence


def routes(settings: FrontSettings) -> list[Data]:
    """The routes, of which the first that fits is taken."""
    found: list[Data] = []
    if settings.tokens == "require":
        for match in open_matches():
            found += [_grpc_route(settings, match), _http_route(settings, match)]
        found.append(_without_token({"prefix": "/"}))
    return [*found, _grpc_route(settings, {"prefix": "/"}), _http_route(settings, {"prefix": "/"})]


def open_matches() -> list[dict[str, Data]]:
    """What needs no token and no JWT, as Envoy matches it."""
    found: list[dict[str, Data]] = [{"prefix": prefix} for prefix in OPEN_PREFIXES]
    found += [{"path": path} for path in OPEN_PATHS]
    found += [{"safe_regex": {"regex": pattern}} for pattern in OPEN_PATTERNS]
    return found


def _without_token(match: dict[str, Data]) -> dict[str, Data]:
    bearer: dict[str, Data] = {
        "name": "authorization",
        "string_match": {"prefix": "Bearer ", "ignore_case": True},
        "invert_match": True,
        "treat_missing_header_as_empty": True,
    }
    return {
        "name": "no token",
        "match": {**match, "headers": [bearer]},
        "direct_response": {"status": 401, "body": {"inline_string": WITHOUT_TOKEN}},
    }


def _grpc_route(settings: FrontSettings, match: dict[str, Data]) -> dict[str, Data]:
    """The caller's deadline bounds a call, and nothing does without one.

    Envoy repeats what no server has begun to answer. A full queue is told by RESOURCE_EXHAUSTED, which is an answer.
    """
    return {
        "name": "grpc",
        "match": {**match, "grpc": {}},
        "request_body_buffer_limit": settings.retry_body_mib * MIB,
        "route": {
            "cluster": GRPC,
            "timeout": "0s",
            "max_stream_duration": {"grpc_timeout_header_max": "0s"},
            "retry_policy": _retries(settings, "connect-failure,refused-stream,reset,unavailable"),
        },
    }


def _http_route(settings: FrontSettings, match: dict[str, Data]) -> dict[str, Data]:
    if not settings.http_servers:
        answer: dict[str, Data] = {"status": 404, "body": {"inline_string": NO_HTTP}}
        return {"name": "no http", "match": match, "direct_response": answer}
    # HTTP/1 has no pings: that a server stands still shows by its silence alone.
    retries = _retries(settings, "connect-failure,refused-stream,reset,retriable-status-codes")
    retries |= {"retriable_status_codes": [503], "per_try_idle_timeout": f"{HTTP_TRY_S}s"}
    return {
        "name": "http",
        "match": match,
        "request_body_buffer_limit": settings.retry_body_mib * MIB,
        "route": {"cluster": HTTP, "timeout": f"{HTTP_CALL_S}s", "retry_policy": retries},
    }


def _retries(settings: FrontSettings, retry_on: str) -> dict[str, Data]:
    elsewhere = extension(
        "envoy.retry_host_predicates.previous_hosts",
        "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
    )
    return {
        "retry_on": retry_on,
        "num_retries": settings.retries,
        "retry_host_predicate": [elsewhere],
        "host_selection_retry_max_attempts": OTHER_HOST_DRAWS,
        "retry_back_off": {"base_interval": f"{FIRST_PAUSE_S}s", "max_interval": f"{LAST_PAUSE_S}s"},
    }
