"""One request that came over HTTP: its head, and what may be asked of it."""

from collections.abc import Mapping
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope

from ..errors import InvalidRequest
from ..http2.headers import UNITS

MAX_TIMEOUT_DIGITS = 8
MAX_QUERY_FIELDS = 64
NO_ADDRESS = ("unknown", 0)


class Exchange:
    """A request, as far as it has come."""

    __slots__ = ("_fields", "is_read", "receive", "scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.receive = receive
        self.is_read = False
        """True once the whole body has been received."""
        self._fields: dict[bytes, bytes] = dict(scope["headers"])  # of several the last, as gRPC's metadata

    def header(self, name: str) -> str | None:
        """The value of a header field by its name in lower case."""
        value = self._fields.get(name.encode("latin-1"))
        return None if value is None else value.decode("latin-1")

    @property
    def source(self) -> tuple[str, int]:
        """The client's address and port."""
        client: tuple[str, int] | None = self.scope["client"]
        return client or NO_ADDRESS

    @property
    def peer_name(self) -> str:
        """The client's address, as gRPC writes it."""
        host, port = self.source
        return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"

    @property
    def parts(self) -> Mapping[str, str]:
        """What stands in the places of the route's path."""
        parts: Mapping[str, str] = self.scope["path_params"]
        return parts

    def query(self, known: frozenset[str]) -> dict[str, str]:
        """The fields of the query; raises InvalidRequest where one is unknown or there twice."""
        text = self.scope["query_string"].decode("latin-1")
        try:
            pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS, errors="strict")
        except ValueError as error:
            raise InvalidRequest(f"the query cannot be read: {error}") from error
        fields = dict(pairs)
        unknown = sorted(fields.keys() - known)
        if unknown:
            raise InvalidRequest(f"the query has '{unknown[0][:80]}'; {', '.join(sorted(known))} are known")
        if len(fields) != len(pairs):
            raise InvalidRequest("the query has a field twice")
        return fields

    def timeout_s(self) -> float | None:
        """How long the caller waits, by ``grpc-timeout`` or what Envoy tells of its own limit; raises InvalidRequest.

        Envoy: https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/router_filter.
        """
        text = self._fields.get(b"grpc-timeout")
        if text is not None:
            if not text[:-1].isdigit() or len(text) > MAX_TIMEOUT_DIGITS + 1 or text[-1] not in UNITS:
                shown = text.decode("latin-1")[:80]
                raise InvalidRequest(f"{shown!r} is no grpc-timeout: up to 8 digits and one of H, M, S, m, u, n")
            return int(text[:-1]) * UNITS[text[-1]]
        text = self._fields.get(b"x-envoy-expected-rq-timeout-ms")
        if text is not None and text.isdigit() and len(text) <= MAX_TIMEOUT_DIGITS:
            return int(text) / 1e3
        return None
