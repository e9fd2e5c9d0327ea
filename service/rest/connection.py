"""One connection: uvicorn's, with limits on heads and ages, and an end in good order."""

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from ..metrics.counters import FAILURES

HEAD_S = 10.0
"""How long a request's head may take, from the first byte of it, and of the first one from the connection on."""
MAX_HEAD_BYTES = 2**16
UPLOAD_S = 30.0
"""How long nothing may come of a body that has begun."""


@dataclass
class ConnectionPolicy:
    """What all connections go by."""

    max_age_s: float = 0.0
    """A response after so long is the connection's last; 0: never."""
    closing: bool = False
    """Whether each connection's next response is its last."""


class Connection(HttpToolsProtocol):
    """uvicorn's own, whose requests have heads of a limited size that come in a limited time."""

    def __init__(
        self,
        policy: ConnectionPolicy,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._policy = policy
        self._made_at = self.idle_since = time.monotonic()
        self._in_head = False
        self._head_bytes = 0
        self._timer: asyncio.TimerHandle | None = None  # while a head or a body is waited for

    @property
    def is_idle(self) -> bool:
        """True between two requests."""
        return not self._in_head and (self.cycle is None or self.cycle.response_complete)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Waits for a head."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(HEAD_S, self._end_late_head)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Takes what the client has sent."""
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                message = f"The request's head is larger than max ({MAX_HEAD_BYTES} bytes). Send fewer fields."
                self._refuse(431, message, "message_size")
            elif self._timer is None:
                self._timer = self.loop.call_later(HEAD_S, self._end_late_head)
        elif self.cycle is not None and self.cycle.more_body:
            self._stop_timer()
            self._timer = self.loop.call_later(UPLOAD_S, self._end_late_body)
        elif self._timer is not None:
            self._stop_timer()

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """A head is complete."""
        self._in_head = False
        super().on_headers_complete()
        policy = self._policy
        if policy.closing or (policy.max_age_s and time.monotonic() - self._made_at > policy.max_age_s):
            self.cycle.keep_alive = False

    def on_response_complete(self) -> None:
        """A request is over."""
        self.idle_since = time.monotonic()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuses what is no HTTP."""
        self._refuse(400, msg, "invalid_request")

    def _refuse(self, status: int, message: str, reason: str) -> None:
        FAILURES.refusals["", "", reason] += 1
        content = json.dumps({"error": message}, separators=(",", ":")).encode()
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(content)
        self.transport.write(b"".join([STATUS_LINE[status], head, content]))
        self.transport.close()

    def _end_late_head(self) -> None:
        self._end_late(f"The request's head did not come within {HEAD_S:g} seconds.")

    def _end_late_body(self) -> None:
        self._end_late(f"Nothing of the request's body has come for {UPLOAD_S:g} seconds. Send it again.")

    def _end_late(self, message: str) -> None:
        """Ends the connection; its client is told why, unless that would be in the midst of a response."""
        self._timer = None
        cycle = self.cycle
        if cycle is None or not cycle.response_started or (self._in_head and cycle.response_complete):
            self._refuse(408, message, "expired")
        else:
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
