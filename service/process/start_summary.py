"""The summary of a start: addresses, what callers may do, and the models, in a few lines."""

from collections.abc import Iterable
from typing import NamedTuple

from ..access.tokens import read_tokens
from ..errors import StartError
from ..settings import Settings

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
MOST_MODELS = 200
"""Models that are told of."""


class ServedModel(NamedTuple):
    """One version of a model, and how it runs."""

    name: str
    version: str
    provider: str
    arithmetic: str
    deviation: float | None
    """Largest deviation of the probe's logits from those in the file; None: it has no probe."""
    tolerance: float | None

    def __str__(self) -> str:
        how = f"{self.name}/{self.version}: {self.provider}, {self.arithmetic}"
        if self.deviation is None or self.tolerance is None:
            return f"{how}, no probe"
        return f"{how}, logits off by {self.deviation:.2g} of {self.tolerance:.2g} allowed"


def start_summary(settings: Settings, port: int, models: Iterable[ServedModel]) -> dict[str, object]:
    """What is told, by heading."""
    return {
        "grpc": f"{settings.host}:{port}, {settings.transport}, {_encryption(settings)}, {_reach(settings.host)}",
        "http": _http(settings),
        "metrics": _metrics(settings),
        "open_to": _open_to(settings),
        "models": [str(model) for model in models],
    }


def as_text(summary: dict[str, object]) -> str:
    """The same for people: a line for each heading, and for each thing in a list or table."""
    lines = ["serving"]
    for heading, told in summary.items():
        first, *others = _parts(told)
        lines += [f"  {heading.replace('_', ' '):<9}{first}", *(f"  {'':<9}{other}" for other in others)]
    return "\n".join(lines)


def _parts(told: object) -> list[str]:
    if isinstance(told, dict):
        return [f"{name}: {whom}" for name, whom in told.items()]
    return [*map(str, told)] or ["none"] if isinstance(told, list) else [str(told)]


def _encryption(settings: Settings) -> str:
    if settings.tls_certificate_file is None:
        return "plain text"
    return "TLS" if settings.tls_client_ca_file is None else "TLS with clients' certificates"


def _reach(host: str) -> str:
    return "from this machine alone" if host in LOOPBACK else "from other machines too"


def _http(settings: Settings) -> str:
    if settings.http_port is None:
        return "off"
    scheme = "http" if settings.tls_certificate_file is None else "https"
    return f"{scheme}://{settings.host}:{settings.http_port}, {_encryption(settings)}, {_reach(settings.host)}"


def _metrics(settings: Settings) -> str:
    if not settings.metrics_port:
        return "off"
    host = settings.metrics_host
    return f"http://{host}:{settings.metrics_port}/metrics, plain text, {_reach(host)}"


def _open_to(settings: Settings) -> dict[str, str]:
    anyone = "whoever reaches the port"
    holders = {right: _holders(settings, right) for right in ("infer", "control", "metrics")}
    control = f"nobody (--model-control {settings.model_control})"
    told = {
        "inference": holders["infer"] or anyone,
        "statistics": holders["metrics"] or anyone,
        "loading models": holders["control"] or anyone if settings.model_control == "explicit" else control,
        "health": "every token" if settings.protect_health else anyone,
    }
    return told | ({"metrics": holders["metrics"] or anyone} if settings.metrics_port else {})


def _holders(settings: Settings, right: str) -> str:
    """The tokens that have the right; empty where none is asked for."""
    if settings.tokens_file is None:
        return ""
    try:
        names = [token.name for token in read_tokens(settings.tokens_file) if right in token.rights]
    except StartError:  # it has been damaged since
        names = []
    return f"tokens {', '.join(names)}" if names else "nobody: no token has the right"
