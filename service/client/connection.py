"""What both clients share: where the server is, how it is reached, and what a call may carry."""

import json
import math
import os
from pathlib import Path
from typing import Any

import grpc

from .errors import ClientError

DEFAULT_TARGET = "127.0.0.1:8001"
_SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "vsock:", "xds:")
SERVICE = "convserve.v1.ImageClassifier"
INFERENCE_SERVICE = "inference.GRPCInferenceService"

# gRPC itself repeats a call that ends in UNAVAILABLE, with pauses of about 0.1, 0.3, 0.9 and 0.9 s, or in
# RESOURCE_EXHAUSTED, after as long as the server says in its trailers (gRPC proposal A6): a queue that is full is told
# apart from a message that is too large, which is never sent again. Five attempts in all, which is gRPC's own limit,
# within the call's time limit. Asking twice changes nothing.
_SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{"service": SERVICE}],
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "0.9s",
                    "backoffMultiplier": 3,
                    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
                },
            }
        ]
    }
)


class Connection:
    """The settings of a client; see ``Client`` for their meaning."""

    def __init__(  # noqa: PLR0913 - what a client may be told, each by name
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout_s: float = 30.0,
        tls: bool | str | os.PathLike[str] | grpc.ChannelCredentials = False,
        max_message_mib: int = 64,
        max_call_images: int = 64,
        calls_in_flight: int = 4,
        token: str = "",
    ) -> None:
        for name, value in (
            ("timeout_s", timeout_s),
            ("max_message_mib", max_message_mib),
            ("max_call_images", max_call_images),
            ("calls_in_flight", calls_in_flight),
        ):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be a number above 0, not {value}")
        self.target = checked_target(target)
        self._timeout_s = timeout_s
        self._max_message_bytes = max_message_mib * 2**20
        self._max_call_images = max_call_images
        self._calls_in_flight = calls_in_flight
        self._tls = tls
        self._credentials = _credentials(tls=tls)
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._options: list[tuple[str, str | int]] = [
            ("grpc.max_send_message_length", self._max_message_bytes),
            ("grpc.max_receive_message_length", self._max_message_bytes),
            ("grpc.service_config", _SERVICE_CONFIG),
            # Above its default of 256 KiB a call is never repeated.
            ("grpc.per_rpc_retry_buffer_size", self._max_message_bytes),
            # Its default of one second before a lost connection is tried again outlasts most of the attempts.
            ("grpc.initial_reconnect_backoff_ms", 100),
            # Its default of two minutes would outlast a restart by far.
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]

    def __getstate__(self) -> dict[str, Any]:
        """Give the settings, without the channel: the copy opens its own. Raises ClientError."""
        if isinstance(self._tls, grpc.ChannelCredentials):
            raise ClientError("a client with gRPC's own credentials cannot be copied: give tls=True or a PEM file")
        return {name: value for name, value in vars(self).items() if name not in ("_channel", "_credentials")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the settings, and read the certificates again. Raises ClientError."""
        vars(self).update(state)
        self._credentials = _credentials(tls=self._tls)


def environment_token() -> str:
    """Give the bearer token of the environment: arguments can be read by others on this machine."""
    return os.environ.get("CONVSERVE_TOKEN", "")


def checked_target(target: str) -> str:
    """Give the address back. Raises ValueError unless it is ``host:port``, or has one of gRPC's schemes.

    gRPC would take port 443 where none is named, and 34463 for 99999.
    """
    host, _, port = target.rpartition(":")
    is_host_and_port = host and "/" not in host and port.isdecimal() and 0 < int(port) < 65536
    if not is_host_and_port and not target.startswith(_SCHEMES):
        raise ValueError(f"expected an address such as {DEFAULT_TARGET}, host and port, not '{target}'")
    return target


def _credentials(*, tls: bool | str | os.PathLike[str] | grpc.ChannelCredentials) -> grpc.ChannelCredentials | None:
    if isinstance(tls, bool):
        return grpc.ssl_channel_credentials() if tls else None
    if isinstance(tls, grpc.ChannelCredentials):
        return tls
    try:
        authorities = Path(tls).read_bytes()
    except OSError as error:
        raise ClientError(f"the certificates in '{os.fspath(tls)}' cannot be read: {error.strerror}") from error
    if b"-----BEGIN CERTIFICATE-----" not in authorities:
        raise ClientError(f"'{os.fspath(tls)}' holds no certificate: expected a PEM file")
    return grpc.ssl_channel_credentials(authorities)
