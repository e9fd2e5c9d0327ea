"""What a supervisor and its workers tell each other, over a socket that keeps messages apart (SOCK_SEQPACKET)."""

import json
from typing import Any

MAX_MESSAGE_BYTES = 2**17
PING, PONG = b"ping", b"pong"
"""The supervisor's question whether the worker lives, and the answer."""
LOADED, READY, FAILED = "loaded", "ready", "failed"
"""A worker's: its models are opened; it serves; it cannot, and why."""
ADMIT, HAND_OVER, REFUSED = "admit", "hand over", "refused"
"""The supervisor's: serve; another has taken the slot; a renewal was refused, and why."""
ASK, DONE = "ask", "done"
"""A worker's: a caller asks for a change of the models. The supervisor's: how it went."""
PREPARE, PREPARED, COMMIT, COMMITTED, ABANDON = "prepare", "prepared", "commit", "committed", "abandon"
"""The two steps of a change, each the supervisor's, with the worker's answer."""


def encode(kind: str, **fields: Any) -> bytes:
    """A message."""
    return json.dumps({"kind": kind, **fields}).encode()


def decode(message: bytes) -> dict[str, Any]:
    """The fields of a message, ``kind`` among them."""
    if message in (PING, PONG):
        return {"kind": message.decode()}
    fields: dict[str, Any] = json.loads(message)
    return fields
