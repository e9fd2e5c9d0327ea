"""The access log, and the sentences of what the front refuses by itself."""

from .extension import extension
from .settings import FrontSettings
from .yaml_text import Data

FIELDS = {
    "time": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "grpc_status": "%GRPC_STATUS%",
    "flags": "%RESPONSE_FLAGS%",
    "duration_ms": "%DURATION%",
    "received_bytes": "%BYTES_RECEIVED%",
    "sent_bytes": "%BYTES_SENT%",
    "tries": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "server": "%UPSTREAM_HOST%",
    "caller": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "request_id": "%REQ(X-REQUEST-ID)%",
}
"""A line of the access log."""
ANSWERED = ("OK", "CANCELED", "INVALID_ARGUMENT", "NOT_FOUND")
"""Codes by which nothing has failed, or the caller has."""
UNAUTHENTICATED, FORBIDDEN, TOO_MANY, FAILED = 401, 403, 429, 500
"""Statuses of HTTP."""
LIMITED = "The front's limit of calls each second is reached. Wait a second, or ask its operator to raise it."
SENTENCES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("UH",), "None of the front's servers is healthy. Try again in a second."),
    (("UF", "UC", "UT", "LR", "UR"), "The server went away, and so did those tried after it. Try again in a second."),
)
"""What is said in place of Envoy's own words, by its flags of what happened."""
BODY = "%LOCAL_REPLY_BODY%"
NO_GRPC: Data = {
    "header_filter": {
        "header": {
            "name": "content-type",
            "string_match": {"prefix": "application/grpc"},
            "invert_match": True,
            "treat_missing_header_as_empty": True,
        }
    }
}
"""Calls over HTTP."""


def local_replies(settings: FrontSettings) -> dict[str, Data]:
    """Each refusal of Envoy's own as a sentence that says what to do, in the servers' form."""
    mappers = _mappers(_status("EQ", TOO_MANY), BODY, sentence=LIMITED)
    for flags, sentence in SENTENCES:
        mappers += _mappers({"response_flag_filter": {"flags": list(flags)}}, BODY, sentence=sentence)
    if settings.jwt_issuer:
        refused: Data = {"or_filter": {"filters": [_status("EQ", UNAUTHENTICATED), _status("EQ", FORBIDDEN)]}}
        mappers += _mappers(refused, f"This call needs 'authorization: Bearer JWT' of {settings.jwt_issuer}: {BODY}.")
    return {"mappers": [*mappers, {"filter": NO_GRPC, "body_format_override": _error(BODY)}]}


def _mappers(wanted: Data, text: str, *, sentence: str = "") -> list[Data]:
    """The same text for HTTP as JSON, and for gRPC as its message; ``sentence`` takes the place of Envoy's body."""
    body: dict[str, Data] = {"body": {"inline_string": sentence}} if sentence else {}
    return [
        {"filter": {"and_filter": {"filters": [wanted, NO_GRPC]}}, **body, "body_format_override": _error(text)},
        {"filter": wanted, **body, "body_format_override": {"text_format_source": {"inline_string": text}}},
    ]


def _error(text: str) -> Data:
    return {"json_format": {"error": text}}


def access_log(settings: FrontSettings) -> list[Data]:
    """A line of JSON to standard output for the calls that are asked for."""
    if settings.access_log == "off":
        return []
    line = extension(
        "envoy.access_loggers.stdout",
        "extensions.access_loggers.stream.v3.StdoutAccessLog",
        log_format={"json_format": dict(FIELDS)},
    )
    return [line if settings.access_log == "all" else {**line, "filter": _failures()}]


def _failures() -> dict[str, Data]:
    grpc: Data = {"grpc_status_filter": {"statuses": list(ANSWERED), "exclude": True}}
    return {"or_filter": {"filters": [grpc, _status("GE", FAILED), {"response_flag_filter": {}}]}}


def _status(op: str, value: int) -> dict[str, Data]:
    """Responses of this HTTP status, or of it and above."""
    wanted: Data = {"default_value": value, "runtime_key": f"front.status_{value}"}
    return {"status_code_filter": {"comparison": {"op": op, "value": wanted}}}
