"""Who may call, and how often: limits of calls each second, JWT, and the front's own token for the servers."""

from pathlib import Path

from .clusters import KEYS
from .extension import extension, file_source
from .routes import open_matches
from .settings import FrontSettings
from .yaml_text import Data

EVERYTHING: Data = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
KNOWN_CALLERS = 10_000
"""Addresses whose calls are counted one by one; the one unseen for longest is forgotten."""
SERVER_TOKEN = "server-token"  # noqa: S105 - what the secret is called
ISSUER = "issuer"
FETCH_S, KEEP_KEYS_S = 5, 300


def access_filters(settings: FrontSettings) -> list[Data]:
    """The filters, in the order in which a call meets them: what costs least is first."""
    found: list[Data] = []
    if settings.rate:
        found.append(_rate_limit(settings.rate))
    if settings.caller_rate:
        found.append(_caller_rate_limit(settings.caller_rate))
    if settings.jwt_issuer:
        found.append(_jwt(settings))
    if settings.server_token_file is not None:
        found.append(_server_token())
    return found


def secrets(settings: FrontSettings) -> list[Data]:
    """The token that the servers are shown; Envoy reads its file at the start."""
    if settings.server_token_file is None:
        return []
    return [{"name": SERVER_TOKEN, "generic_secret": {"secret": file_source(settings.server_token_file)}}]


def _bucket(calls: int) -> dict[str, Data]:
    """So many calls each second, and in a burst."""
    return {"max_tokens": calls, "tokens_per_fill": calls, "fill_interval": "1s"}


def _limit(name: str, **fields: Data) -> dict[str, Data]:
    return extension(
        f"envoy.filters.http.local_ratelimit.{name}",
        "extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        stat_prefix=name,
        filter_enabled=EVERYTHING,
        filter_enforced=EVERYTHING,
        rate_limited_as_resource_exhausted=True,  # UNAVAILABLE, which is the default, would have clients try again
        **fields,
    )


def _rate_limit(calls: int) -> dict[str, Data]:
    return _limit("rate", token_bucket=_bucket(calls))


def _caller_rate_limit(calls: int) -> dict[str, Data]:
    """A descriptor without a value stands for each value that comes."""
    return _limit(
        "caller_rate",
        token_bucket=_bucket(10**9),
        max_dynamic_descriptors=KNOWN_CALLERS,
        rate_limits=[{"actions": [{"remote_address": {}}]}],
        descriptors=[{"entries": [{"key": "remote_address"}], "token_bucket": _bucket(calls)}],
    )


def _jwt(settings: FrontSettings) -> dict[str, Data]:
    provider: dict[str, Data] = {"issuer": settings.jwt_issuer, "require_expiration": True}
    if settings.audiences:
        provider["audiences"] = list(settings.audiences)
    if settings.jwt_keys.startswith("https://"):
        provider["remote_jwks"] = {
            "http_uri": {"uri": settings.jwt_keys, "cluster": KEYS, "timeout": f"{FETCH_S}s"},
            "cache_duration": f"{KEEP_KEYS_S}s",
            "async_fetch": {"fast_listener": False},
        }
    else:
        provider["local_jwks"] = file_source(Path(settings.jwt_keys))
    free: list[Data] = [{"match": match} for match in open_matches()]
    return extension(
        "envoy.filters.http.jwt_authn",
        "extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        providers={ISSUER: provider},
        rules=[*free, {"match": {"prefix": "/"}, "requires": {"provider_name": ISSUER}}],
    )


def _server_token() -> dict[str, Data]:
    generic = extension(
        "envoy.http.injected_credentials.generic",
        "extensions.http.injected_credentials.generic.v3.Generic",
        credential={"name": SERVER_TOKEN},
        header="authorization",
        header_value_prefix="Bearer ",
    )
    return extension(
        "envoy.filters.http.credential_injector",
        "extensions.filters.http.credential_injector.v3.CredentialInjector",
        overwrite=True,
        credential=generic,
    )
