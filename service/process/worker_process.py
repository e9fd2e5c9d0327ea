"""One worker as its supervisor sees it: a process, the line to it, and what is known of it."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..access.shared_counts import Column
from ..cpu import Share
from .messages import (
    ABANDON,
    ADMIT,
    ASK,
    COMMITTED,
    DONE,
    FAILED,
    HAND_OVER,
    LOADED,
    MAX_MESSAGE_BYTES,
    PING,
    PREPARED,
    READY,
    REFUSED,
    decode,
    encode,
)
from .start_summary import ServedModel
from .worker_reports import ReportStream
from .worker_slot import WorkerSlot

OnAsk = Callable[["WorkerProcess", str, str, int], None]
"""Takes the worker, kind and model of a change that one of its callers asks for, and the number to answer to."""


@dataclass(frozen=True)
class Launch:
    """What a worker is started with."""

    command: Sequence[str]
    number: int
    port: int
    http_port: int | None
    share: Share
    models: str | None
    """Those to be served, where that has changed since the start."""
    versions: tuple[str, ...] | None
    """Those to be opened at its start, by name/version; None: what its settings say."""
    reports: ReportStream
    """Where it tells what it has counted and serves."""
    column: Column | None
    """Where it counts the requests of tokens."""

    def slot(self, control_fd: int) -> WorkerSlot:
        """Its slot, with this end of the line to it."""
        column = self.column
        return WorkerSlot(
            number=self.number,
            port=self.port,
            http_port=self.http_port,
            threads=self.share.threads,
            cores=self.share.cores,
            control_fd=control_fd,
            reports_fd=self.reports.theirs.fileno(),
            counts_column=None if column is None else (column.descriptor, column.number, column.count),
            models=self.models,
            versions=self.versions,
        )


class WorkerProcess:
    """One process, and what is known of it."""

    def __init__(self, launch: Launch, on_ask: "OnAsk") -> None:
        """Starts it; ``on_ask`` takes what its callers ask."""
        self._loop = asyncio.get_running_loop()
        self.number = launch.number
        self._reports = launch.reports
        self.column = launch.column
        """Where it counts the requests of tokens."""
        self.loaded: asyncio.Future[None] = self._loop.create_future()
        """Done when it has opened its models, or has failed to."""
        self.models: dict[str, str] = {}
        """Digests of what it has opened or serves, by name/version."""
        self.rejected: dict[str, str] = {}
        """Why it does not serve other files, by name/version."""
        self.served: list[ServedModel] = []
        """What it serves, for the summary of the start."""
        self.ready: asyncio.Future[None] = self._loop.create_future()
        """Done when it serves, or has failed to."""
        self._answer: asyncio.Future[dict[str, Any]] | None = None
        self._step = 0  # the number of the step that is to be answered
        self.hangs = False
        """True once a step of a change has taken it too long."""
        self._on_ask = on_ask
        self.ended: asyncio.Future[int] = self._loop.create_future()
        """Its exit status, or minus the number of the signal that ended it."""
        self.failure = ""
        """Why it does not serve, or not any more."""
        self._ready_at: float | None = None
        self._heard_at = 0.0
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, self._reports.theirs:
            slot = launch.slot(theirs.fileno())
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                launch.command,
                env=slot.environment(),
                pass_fds=(slot.control_fd, slot.reports_fd, *([] if self.column is None else [self.column.descriptor])),
                process_group=0,  # a terminal's Ctrl-C is for the supervisor
            )
        self._control.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self._loop.add_reader(self._control, self._on_message)
        self._handle = os.pidfd_open(self._process.pid)
        self._loop.add_reader(self._handle, self._on_exit)

    @property
    def has_served(self) -> bool:
        """Whether it has ever been ready."""
        return self._ready_at is not None

    @property
    def served_s(self) -> float:
        """For how long it has been ready."""
        return 0.0 if self._ready_at is None else time.monotonic() - self._ready_at

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        self._process.send_signal(number)

    @property
    def silent_s(self) -> float:
        """For how long it has not answered, since it became ready, in seconds."""
        return 0.0 if self._ready_at is None else time.monotonic() - self._heard_at

    def ping(self) -> None:
        """Asks for a sign of life."""
        self._send(PING)

    def admit(self) -> None:
        """Lets it serve what it has opened."""
        self._send(encode(ADMIT))

    def hand_over(self) -> None:
        """Has it leave its slot, without losing a request."""
        self._reports.serves = False
        if self.has_served:
            self._send(encode(HAND_OVER))
        else:
            self.signal(signal.SIGTERM)

    def tell_refusal(self, reason: str, lost: Mapping[str, str]) -> None:
        """Has its index tell why a renewal was refused."""
        self._send(encode(REFUSED, reason=reason, lost=dict(lost)))

    def tell_done(self, number: int, error: str) -> None:
        """Has it answer a caller that asked for a change."""
        self._send(encode(DONE, number=number, error=error))

    async def request(self, kind: str, limit_s: float, **fields: Any) -> dict[str, Any]:
        """Sends one step of a change and returns its answer; one with an ``error`` if it ends, or hangs, meanwhile."""
        if self.ended.done():
            return {"error": self.failure}
        self._step += 1
        self._answer = self._loop.create_future()
        self._send(encode(kind, number=self._step, **fields))
        await asyncio.wait([self._answer], timeout=limit_s)
        if self._answer.done():
            return self._answer.result()
        self.hangs = True
        return {
            "error": f"worker {self.number} has not opened the models within {limit_s:g} s (--model-load-timeout-s), "
            "and is replaced"
        }

    def abandon(self, reason: str, lost: Mapping[str, str]) -> None:
        """Has it drop what was prepared."""
        self._send(encode(ABANDON, reason=reason, lost=dict(lost)))

    def _send(self, message: bytes) -> None:
        with contextlib.suppress(OSError):  # it has ended, or reads nothing
            self._control.send(message)

    def _on_message(self) -> None:
        try:
            message = self._control.recv(MAX_MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            self._loop.remove_reader(self._control)
            return
        self._heard_at = time.monotonic()
        fields = decode(message)
        kind = fields["kind"]
        if kind == LOADED:
            self.models, self.rejected = fields["models"], fields["rejected"]
            self.loaded.set_result(None)
        elif kind == READY:
            self._ready_at = self._heard_at
            self._reports.serves = True
            self.served = [ServedModel(*model) for model in fields["served"]]
            self.ready.set_result(None)
        elif kind == FAILED:
            self.failure = fields["reason"]
            self._settle()
        elif kind == ASK:
            self._on_ask(self, fields["order"], fields["model"], fields["number"])
        elif kind in (PREPARED, COMMITTED):
            self._take_answer(fields)

    def _take_answer(self, fields: dict[str, Any]) -> None:
        """Takes the answer to the step that is under way, not one that comes too late."""
        if fields["number"] == self._step and self._answer is not None and not self._answer.done():
            self._answer.set_result(fields)

    def _settle(self) -> None:
        """Nothing more is to be expected of it."""
        for stage in (self.loaded, self.ready):
            if not stage.done():
                stage.set_result(None)
        if self._answer is not None and not self._answer.done():
            self._answer.set_result({"error": self.failure})

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._handle)
        os.close(self._handle)
        status = self._process.wait()
        self._on_message()  # its last message may be there still
        self._loop.remove_reader(self._control)
        self._control.close()
        self._reports.serves = False
        how = f"ended with status {status}" if status >= 0 else f"was ended by {signal.Signals(-status).name}"
        self.failure = self.failure or f"worker {self.number} {how}"
        self._settle()
        self.ended.set_result(status)
