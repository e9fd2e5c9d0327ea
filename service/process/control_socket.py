"""A worker's line to its supervisor: messages both ways, and changes of the models that all workers make as one."""

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ..errors import ModelChangeFailed
from ..runtime.model_control import Done, ModelControl, Order
from ..runtime.model_folder import Place
from ..runtime.model_loader import Switch
from ..runtime.repository import Contents
from .messages import (
    ABANDON,
    ADMIT,
    ASK,
    COMMIT,
    COMMITTED,
    DONE,
    HAND_OVER,
    LOADED,
    MAX_MESSAGE_BYTES,
    PING,
    PONG,
    PREPARE,
    PREPARED,
    REFUSED,
    decode,
    encode,
)

MOST_REASON = 200
"""Characters of a sentence that is sent on."""


class ControlSocket:
    """The worker's end. A thread of its own takes the supervisor's messages."""

    def __init__(self, connection: socket.socket, on_hand_over: Callable[[], None], on_end: Callable[[], None]) -> None:
        """``on_end`` is called when the supervisor has ended: a worker does not outlive it."""
        self._connection = connection
        self._on_hand_over = on_hand_over
        self._on_end = on_end
        self._admitted = threading.Event()
        self._control: ModelControl | None = None
        self._asked: dict[int, Done] = {}
        threading.Thread(target=self._listen, name="control", daemon=True).start()

    def report(self, kind: str, **fields: Any) -> None:
        """Sends a message; nothing happens where the supervisor has ended, which the end of the socket tells."""
        with contextlib.suppress(OSError):
            self._connection.sendall(encode(kind, **fields))

    def await_admission(self, contents: Contents) -> None:
        """Tells which models have been opened, and waits until the supervisor lets them be served."""
        self.report(LOADED, models=contents.digests, rejected=_by_text(contents.rejected))
        self._admitted.wait()

    def attach(self, control: ModelControl) -> None:
        """Has the supervisor make all changes of the models, here as in the other workers."""
        self._control = control
        control.coordinate = self._coordinate

    def _coordinate(self, order: Order, done: Done) -> None:
        """Asks the supervisor; by the thread that receives, which must not wait for it."""
        number = id(done)
        self._asked[number] = done
        try:
            self._connection.send(encode(ASK, number=number, order=order.kind, model=order.model), socket.MSG_DONTWAIT)
        except OSError:
            del self._asked[number]
            done(ModelChangeFailed("The supervisor of the workers does not answer. Try again later."))

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while message := self._connection.recv(MAX_MESSAGE_BYTES):
                self._on_message(decode(message))
        self._on_end()

    def _on_message(self, fields: Mapping[str, Any]) -> None:
        kind = fields["kind"]
        if kind == PING.decode():
            with contextlib.suppress(OSError):
                self._connection.sendall(PONG)
        elif kind == ADMIT:
            self._admitted.set()
        elif kind == HAND_OVER:
            self._on_hand_over()
        elif kind == DONE:
            done = self._asked.pop(fields["number"])
            done(ModelChangeFailed(fields["error"]) if fields["error"] else None)
        elif self._control is not None:
            self._change(self._control, kind, fields)

    def _change(self, control: ModelControl, kind: str, fields: Mapping[str, Any]) -> None:
        if kind == PREPARE:
            reply = partial(self._report_prepared, fields["number"])
            control.prepare(Order(fields["order"], fields["model"]), reply)
        elif kind == COMMIT:
            control.commit(partial(self.report, COMMITTED, number=fields["number"]))
        elif kind in (ABANDON, REFUSED):
            control.abandon(fields["reason"], fields["lost"])

    def _report_prepared(self, number: int, result: Switch | Exception) -> None:
        if isinstance(result, Exception):
            self.report(PREPARED, number=number, error=str(result), lost=getattr(result, "lost", {}), models={})
        else:
            refused = _by_text(result.refused)
            self.report(PREPARED, number=number, error="", models=result.contents.digests, refused=refused)


def _by_text(reasons: Mapping[Place, str]) -> dict[str, str]:
    return {f"{name}/{version}": reason[:MOST_REASON] for (name, version), reason in reasons.items()}
