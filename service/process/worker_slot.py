"""What a supervisor gives to each of its workers: a number, a share of the cores, the port, and a line to talk on."""

import json
import os
import socket
from dataclasses import asdict, dataclass, replace
from typing import Self

from ..access.shared_counts import Column, SharedCounts
from ..settings import Settings

VARIABLE = "CONVSERVE_WORKER_SLOT"


@dataclass(frozen=True)
class WorkerSlot:
    """The slot of one worker, which goes to it as an environment variable; the rest of its settings it reads again."""

    number: int
    port: int
    threads: int
    cores: tuple[int, ...]
    """The cores to be bound to; empty: none."""
    control_fd: int
    """File descriptor of a socket that is at its end when the supervisor is."""
    reports_fd: int
    """File descriptor of a socket for what it has counted and serves."""
    counts_column: tuple[int, int, int] | None = None
    """The worker's place in the memory where the requests of tokens are counted: access/shared_counts.Column."""
    models: str | None = None
    """The models to be served, where callers have loaded and unloaded some; None: as set."""
    versions: tuple[str, ...] | None = None
    """The versions to be opened at the start, by name/version: those that the other workers serve; None: as set."""
    http_port: int | None = None
    """The port of HTTP; None: none."""

    @classmethod
    def from_environment(cls) -> Self | None:
        """The slot that this process was started for, once; None where no supervisor started it."""
        text = os.environ.pop(VARIABLE, None)
        return None if text is None else cls(**json.loads(text))

    def environment(self) -> dict[str, str]:
        """Ours, with the slot."""
        return os.environ | {VARIABLE: json.dumps(asdict(self))}

    def apply(self, settings: Settings) -> Settings:
        """Binds the process to its cores, before there are threads, and returns its own settings."""
        if self.cores:
            os.sched_setaffinity(0, self.cores)
        return replace(
            settings,
            port=self.port,
            http_port=self.http_port,
            models=settings.models if self.models is None else self.models,
            threads=settings.threads or self.threads,
            decode_threads=settings.decode_threads or self.threads,
        )

    def token_counts(self) -> SharedCounts | None:
        """Where the requests of tokens are counted; None where no token is."""
        return None if self.counts_column is None else SharedCounts(Column(*self.counts_column))

    def open_control_socket(self) -> socket.socket:
        """The worker's end of the line."""
        return socket.socket(fileno=self.control_fd)

    def open_report_socket(self) -> socket.socket:
        """The worker's end of the other line."""
        return socket.socket(fileno=self.reports_fd)
