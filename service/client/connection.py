"""What both clients share: where the server is, what a call may carry, and the course of each conversation.

A conversation is a generator: it yields the call to wait for, is sent that call's answer, and returns
the result. So the order of calls, how many are under way, and what becomes of the others when one fails
are written once; a client only waits, in its own way.
"""

import json
import math
import os
from collections import deque
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Protocol, TypeVar

import grpc

from service.client import messages
from service.client.errors import ClientError, client_error
from service.client.pictures import Pictures, sources
from service.client.results import ModelSummary, Result
from service.pb import image_classifier_pb2 as pb

DEFAULT_TARGET = "127.0.0.1:8001"
_SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "vsock:", "xds:")
SERVICE = "convserve.v1.ImageClassifier"

# Calls of a few MiB keep both sides busy: the server decodes one while the next is on the wire.
_MAX_CALL_BYTES = 8 * 2**20
# Names, sizes and field tags beside one picture's bytes.
_MESSAGE_SLACK_BYTES = 4096

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


class Call(Protocol):
    """A call that is under way."""

    def cancel(self) -> object:
        """Give it up, unless it is done."""


CallT = TypeVar("CallT", bound=Call)


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
        ]

    def _classification(
        self,
        send: Callable[[pb.ClassifyRequest], CallT],
        pictures: Pictures,
        *,
        model: str,
        top_k: int,
        logits: bool,
        version: str,
    ) -> Generator[CallT, pb.ClassifyResponse, list[Result]]:
        """Send the calls in order, a few ahead of the answers; give up the rest when one fails."""
        if top_k < 1:
            raise ValueError(f"top_k must be 1 or more, not {top_k}")
        largest = self._max_message_bytes - _MESSAGE_SLACK_BYTES
        requests = messages.requests(
            messages.Question(model, version, top_k, logits),
            sources(pictures, max_bytes=largest),
            max_images=self._max_call_images,
            max_bytes=min(_MAX_CALL_BYTES, largest),
        )
        answers: list[Result] = []
        under_way: deque[tuple[CallT, int]] = deque()
        try:
            for request in requests:
                under_way.append((send(request), len(request.images)))
                if len(under_way) == self._calls_in_flight:
                    answers += messages.results((yield under_way[0][0]), asked=under_way.popleft()[1])
            while under_way:
                answers += messages.results((yield under_way[0][0]), asked=under_way.popleft()[1])
        finally:
            for call, _ in under_way:
                call.cancel()
        return answers

    def _listing(
        self, send: Callable[[pb.ListModelsRequest], CallT]
    ) -> Generator[CallT, pb.ListModelsResponse, list[ModelSummary]]:
        return messages.summaries((yield send(pb.ListModelsRequest())))

    def _error(self, error: grpc.RpcError) -> ClientError:
        return client_error(error, target=self.target, timeout_s=self._timeout_s)


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
