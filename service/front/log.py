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
FAILED_STATUS = 500
SENTENCES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("RL",), "The front's limit of calls each second is reached. Wait a second, or ask its operator to raise it."),
    (("UH",), "None of the front's servers is healthy. Try again in a second."),
    (("UF", "UC", "UT", "LR", "UR"), "The server went away, and so did those tried after it. Try again in a second."),
)
"""What is said in place of Envoy's own words, by its flags of what happened."""


def local_replies(settings: FrontSettings) -> dict[str, Data]:
    """Each refusal of Envoy's own as a sentence that says what to do."""
    mappers: list[Data] = [
        {"filter": {"response_flag_filter": {"flags": list(flags)}}, "body": {"inline_string": sentence}}
        for flags, sentence in SENTENCES
    ]
    if settings.jwt_issuer:
        said = f"This call needs 'authorization: Bearer JWT' of {settings.jwt_issuer}: %LOCAL_REPLY_BODY%."
        mappers.append(
            {
                "filter": {"response_flag_filter": {"flags": ["UAEX"]}},
                "body_format_override": {"text_format_source": {"inline_string": said}},
            }
        )
    return {"mappers": mappers}


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
    least: Data = {"default_value": FAILED_STATUS, "runtime_key": "front.failed_status"}
    http: Data = {"status_code_filter": {"comparison": {"op": "GE", "value": least}}}
    return {"or_filter": {"filters": [grpc, http, {"response_flag_filter": {}}]}}
