"""How a call went, once it has ended: what the access log, the line about a slow request and a trace tell."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..rpc import Call
from ..rpc.status import code_of

GivenId = Callable[[bytes], str]
"""Reads the id that a request has in its message."""


@dataclass(frozen=True)
class CallEnd:
    """A call of a deferred method that has its answer."""

    call: Call
    code: str
    began_ns: int
    """When it was given to its method, on ``time.monotonic_ns``'s clock."""
    ended_ns: int
    times_ns: tuple[int, int, int, int] | None
    """Of its last run: when it began, its rows were joined, had run, and were split; None without one."""
    batch_rows: int

    @classmethod
    def of(cls, call: Call, result: bytes | Exception, began_ns: int | None = None) -> "CallEnd":
        """That of a call whose answer has just been given."""
        request = call.request
        run = None if request is None else request.run
        times_ns = None if run is None else run.times_ns
        return cls(
            call,
            code_name(result, call.deadline),
            (request.arrived_ns if request is not None else time.monotonic_ns()) if began_ns is None else began_ns,
            time.monotonic_ns(),
            times_ns,
            0 if run is None else run.rows,
        )

    @property
    def total_ms(self) -> float:
        """From the method to the answer."""
        return (self.ended_ns - self.began_ns) / 1e6

    def fields(self, given_ids: Mapping[str, GivenId], token: str) -> dict[str, Any]:
        """What a line of the log says of it."""
        call, request = self.call, self.call.request
        given = given_ids.get(call.path)
        fields: dict[str, Any] = {
            "method": call.path,
            "code": self.code,
            "id": call.request_id(given(call.payload) if given is not None else ""),
            "peer_address": call.peer_name,
            "total_ms": round(self.total_ms, 3),
        }
        if token:
            fields["token"] = token
        if call.model is not None:
            fields |= {"model": call.model.name, "version": call.model.version}
        if request is not None:
            fields["rows"] = request.rows
        if request is not None and self.times_ns is not None:
            began_ns, joined_ns, ran_ns, _ = self.times_ns
            fields["queue_ms"] = round((began_ns - request.arrived_ns) / 1e6, 3)
            fields["run_ms"] = round((ran_ns - joined_ns) / 1e6, 3)
            fields["batch_rows"] = self.batch_rows
        return fields


def code_name(result: bytes | Exception, deadline: float | None = None) -> str:
    """The status code of an answer."""
    return "OK" if isinstance(result, bytes) else code_of(result, deadline).name
