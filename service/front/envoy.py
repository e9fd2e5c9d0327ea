"""Envoy's configuration as data, put together: one listener for gRPC and HTTP, and the servers behind it."""

from .access import access_filters, secrets
from .clusters import clusters
from .extension import extension, file_source, socket_address
from .log import access_log, local_replies
from .routes import routes
from .settings import FrontSettings, parse_address
from .yaml_text import Data

CONNECTION_MANAGER = "envoy.filters.network.http_connection_manager"
HEADERS_S, QUIET_S = 10, 3600
"""How long header fields may take to arrive, and how long a stream or a connection may be silent."""
PING_S, PING_ANSWER_S = 30, 10
"""How often callers' connections are asked whether they are still there, and how long the answer may take."""


def configuration(settings: FrontSettings) -> dict[str, Data]:
    """All of Envoy's configuration."""
    resources: dict[str, Data] = {"listeners": [_listener(settings)], "clusters": clusters(settings)}
    if found := secrets(settings):
        resources["secrets"] = found
    whole: dict[str, Data] = {"static_resources": resources, "overload_manager": _overload(settings)}
    if settings.admin:
        whole["admin"] = {"address": socket_address(parse_address(settings.admin))}
    return whole


def _overload(settings: FrontSettings) -> dict[str, Data]:
    monitor = extension(
        "envoy.resource_monitors.global_downstream_max_connections",
        "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        max_active_downstream_connections=settings.max_connections,
    )
    return {"resource_monitors": [monitor]}


def _listener(settings: FrontSettings) -> dict[str, Data]:
    chain: dict[str, Data] = {"filters": [_connection_manager(settings)]}
    if settings.tls_certificate_file is not None:
        chain["transport_socket"] = _listener_tls(settings)
    return {
        "name": "front",
        "address": socket_address(parse_address(settings.listen)),
        "filter_chains": [chain],
    }


def _connection_manager(settings: FrontSettings) -> dict[str, Data]:
    router = extension("envoy.filters.http.router", "extensions.filters.http.router.v3.Router")
    host = {"name": "all", "domains": ["*"], "routes": routes(settings)}
    return extension(
        CONNECTION_MANAGER,
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="front",
        codec_type="AUTO",
        # The caller's address is that of its connection, whatever its header fields say; its request id is kept.
        use_remote_address=True,
        preserve_external_request_id=True,
        # Rules and servers see one and the same path: /open/../closed is /closed for both.
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action="REJECT_REQUEST",
        request_headers_timeout=f"{HEADERS_S}s",
        stream_idle_timeout=f"{QUIET_S}s",
        common_http_protocol_options={"idle_timeout": f"{QUIET_S}s"},
        http2_protocol_options={"connection_keepalive": {"interval": f"{PING_S}s", "timeout": f"{PING_ANSWER_S}s"}},
        route_config={"name": "front", "virtual_hosts": [host]},
        http_filters=[*access_filters(settings), router],
        local_reply_config=local_replies(settings),
        access_log=access_log(settings),
    )


def _listener_tls(settings: FrontSettings) -> dict[str, Data]:
    pair = zip(
        ("certificate_chain", "private_key"), (settings.tls_certificate_file, settings.tls_key_file), strict=True
    )
    common: dict[str, Data] = {
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "tls_certificates": [{name: file_source(file) for name, file in pair if file is not None}],
    }
    fields: dict[str, Data] = {"common_tls_context": common}
    if settings.tls_client_ca_file is not None:
        common["validation_context"] = {"trusted_ca": file_source(settings.tls_client_ca_file)}
        fields["require_client_certificate"] = True
    return extension(
        "envoy.transport_sockets.tls", "extensions.transport_sockets.tls.v3.DownstreamTlsContext", **fields
    )
