"""The servers, as Envoy sees them: spread over, asked for their health, and left out where they fail."""

from pathlib import Path
from urllib.parse import urlsplit

from .extension import extension, file_source, socket_address
from .settings import Address, FrontSettings
from .yaml_text import Data

GRPC, HTTP, KEYS = "grpc", "http", "jwt-keys"
"""The clusters' names."""
ASKS_IN_DRAIN = 4
"""How often health is asked during the servers' drain delay."""
SILENT_ASKS = 2
"""How often a question must stay without an answer for a server to be left out. NOT_SERVING is an answer, and counts at
once; under much load one may come late."""
CONNECT_S = 1
PING_S = 1
"""How often a server is pinged over HTTP/2, and how long the answer may take: one that stands still, or is cut off, is
left after twice that, and its calls are repeated elsewhere."""
IDLE_S = 60
"""How long a connection to a server may be idle: less than the 75 s after which servers close those of HTTP."""
WITHOUT_LIMIT = 1_000_000
"""Calls at a time: the servers bound their queues by themselves, and Envoy's 1,024 would refuse before they do."""
RETRIES_AT_LEAST = 100
EJECTED_S, EJECTED_MOST_S = 2, 30


def clusters(settings: FrontSettings) -> list[Data]:
    """The gRPC servers, and where there are any, the HTTP servers and the issuer of JWT."""
    found: list[Data] = [_cluster(settings, GRPC, settings.servers)]
    if settings.http_servers:
        found.append(_cluster(settings, HTTP, settings.http_servers))
    if settings.jwt_keys.startswith("https://"):
        found.append(_issuer(settings))
    return found


def _cluster(settings: FrontSettings, name: str, servers: tuple[Address, ...]) -> dict[str, Data]:
    found: dict[str, Data] = {
        "name": name,
        **_endpoints(name, servers),
        "lb_policy": "LEAST_REQUEST",
        "connect_timeout": f"{CONNECT_S}s",
        # Never send to servers that are known to be down, however many are.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "health_checks": [_health_check(settings, name)],
        "outlier_detection": _ejection(servers),
        "circuit_breakers": {"thresholds": [_limits()]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": _protocol(name),
                "common_http_protocol_options": {"idle_timeout": f"{IDLE_S}s"},
            }
        },
    }
    if settings.server_tls_ca_file is not None:
        protocols = ["h2"] if name == GRPC else ["http/1.1"]
        found["transport_socket"] = _server_tls(settings.server_tls_ca_file, settings.server_tls_name, protocols)
    return found


def _endpoints(name: str, servers: tuple[Address, ...]) -> dict[str, Data]:
    endpoints = [{"endpoint": {"address": socket_address(server)}} for server in servers]
    numbers = all(server.is_number for server in servers)
    return {
        "type": "STATIC" if numbers else "STRICT_DNS",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    }


def _protocol(name: str) -> dict[str, Data]:
    if name == HTTP:
        return {"http_protocol_options": {}}
    return {
        "http2_protocol_options": {"connection_keepalive": {"interval": f"{PING_S}s", "timeout": f"{PING_S}s"}},
    }


def _health_check(settings: FrontSettings, name: str) -> dict[str, Data]:
    often = f"{settings.drain_delay_s / ASKS_IN_DRAIN:.3f}s"
    asked: dict[str, Data] = (
        {"grpc_health_check": {"service_name": settings.health_name} if settings.health_name else {}}
        if name == GRPC
        else {"http_health_check": {"path": "/v2/health/ready"}}
    )
    return {
        "timeout": f"{max(1.0, settings.drain_delay_s / ASKS_IN_DRAIN):.3f}s",
        "interval": often,
        "no_traffic_interval": often,
        "unhealthy_threshold": SILENT_ASKS,
        "healthy_threshold": 1,
        **asked,
    }


def _ejection(servers: tuple[Address, ...]) -> dict[str, Data]:
    """By broken connections alone.

    UNAVAILABLE and DEADLINE_EXCEEDED are also what a server says of one model, or under too much load; to leave it out
    then would give the others its load.
    """
    numbers = all(server.is_number for server in servers)
    most = 100 * (len(servers) - 1) // len(servers) if numbers else 50
    never = ("consecutive_5xx", "consecutive_gateway_failure", "success_rate", "local_origin_success_rate")
    return {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 2,
        "enforcing_consecutive_local_origin_failure": 100,
        **{f"enforcing_{each}": 0 for each in never},
        "interval": "0.5s",
        "base_ejection_time": f"{EJECTED_S}s",
        "max_ejection_time": f"{EJECTED_MOST_S}s",
        "max_ejection_percent": most,
    }


def _limits() -> dict[str, Data]:
    """Retries as many as calls: Envoy's three at a time are used up at once when a server dies."""
    return {
        "max_connections": WITHOUT_LIMIT,
        "max_pending_requests": WITHOUT_LIMIT,
        "max_requests": WITHOUT_LIMIT,
        "retry_budget": {"budget_percent": {"value": 100}, "min_retry_concurrency": RETRIES_AT_LEAST},
    }


def _server_tls(authority: Path, name: str, protocols: list[str]) -> dict[str, Data]:
    names = [{"san_type": kind, "matcher": {"exact": name}} for kind in ("DNS", "IP_ADDRESS")]
    return extension(
        "envoy.transport_sockets.tls",
        "extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        sni=name,
        common_tls_context={
            "alpn_protocols": protocols,
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "validation_context": {
                "trusted_ca": file_source(authority),
                "match_typed_subject_alt_names": names,
            },
        },
    )


def _issuer(settings: FrontSettings) -> dict[str, Data]:
    """Where the keys of JWT come from."""
    parts = urlsplit(settings.jwt_keys)
    host = parts.hostname or ""
    return {
        "name": KEYS,
        **_endpoints(KEYS, (Address(host, parts.port or 443),)),
        "connect_timeout": "5s",
        "transport_socket": _server_tls(settings.system_ca_file, host, ["http/1.1"]),
    }
