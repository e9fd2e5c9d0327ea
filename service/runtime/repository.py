"""Which models can be asked now, and why the others cannot: one state, replaced at once.

Any thread may ask; a switch is seen by all of them from one moment on. What was served before ends when its last
request has its answer.
"""

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Self

from ..batching.batcher import Batcher
from ..errors import InvalidRequest, NotReady, UnknownModel
from ..memory import trim_memory
from .endpoint import Endpoint
from .model_folder import Place
from .model_totals import ModelTotals
from .process_report import Gather, ProcessReport
from .version_policy import parse_version


@dataclass(frozen=True)
class Contents:
    """What is served, and what is known of the rest."""

    endpoints: Mapping[str, Mapping[int, Endpoint]] = field(default_factory=dict)
    rejected: Mapping[Place, str] = field(default_factory=dict)
    """Files that cannot be served, and why; of a version that is served, a newer file of it."""
    loading: frozenset[Place] = frozenset()
    unloaded: frozenset[Place] = frozenset()
    """Files that were not asked for."""
    remarks: Mapping[str, str] = field(default_factory=dict)
    """By name of a model that is served: why the last reload did not change it."""

    @property
    def digests(self) -> dict[str, str]:
        """Of what is served, by name/version: what several processes must have in common."""
        return {
            f"{name}/{version}": endpoint.digest
            for name, versions in self.endpoints.items()
            for version, endpoint in versions.items()
        }


@dataclass(frozen=True)
class IndexEntry:
    """One version of a model, as RepositoryIndex tells of it."""

    name: str
    version: int
    state: str
    """READY, LOADING or UNAVAILABLE."""
    reason: str = ""


class Repository:
    """The models that can be asked. A context manager: leaving it ends their batchers."""

    def __init__(self, pins: Mapping[str, int] | None = None) -> None:
        """``pins``: by name, the version that answers where none is asked for."""
        self._pins = pins or {}
        self._contents = Contents()
        self._batchers: tuple[Batcher, ...] = ()
        self._retired: tuple[Batcher, ...] = ()  # what they still have is run by their own threads
        self._lock = threading.Lock()
        self._on_change: list[Callable[[], None]] = []
        self.epoch = 0
        """Another after each switch: what was remembered of endpoints is then to be forgotten."""
        self.tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()
        """What the thread that changes the repository is to do; it holds no locks."""
        self._totals = ModelTotals()
        self.gather: Gather = lambda done: done(self.report())
        """Has the reports of all processes of one port added up; until told otherwise, this one is alone."""

    def __enter__(self) -> Self:
        """Nothing is served yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends all runs, and answers what waits with Stopping."""
        for batcher in self.batchers:
            batcher.__exit__(None, None, None)

    @property
    def contents(self) -> Contents:
        """The state now; it never changes, another takes its place."""
        return self._contents

    def switch(self, contents: Contents) -> None:
        """Serves this from now on; batchers that are new begin to run."""
        with self._lock:
            before = {endpoint for versions in self._contents.endpoints.values() for endpoint in versions.values()}
            after = {endpoint for versions in contents.endpoints.values() for endpoint in versions.values()}
            for endpoint in after - before:
                self._start(endpoint)
            fresh = tuple(endpoint.batcher for endpoint in after - before)
            self._batchers += fresh  # the old ones stay until nothing refers to their endpoints
            self._contents = contents
            self.epoch += before != after
        for tell in self._on_change:
            tell()

    def on_change(self, tell: Callable[[], None]) -> None:
        """Has a function called after each switch, by the thread that switched."""
        self._on_change.append(tell)

    def _start(self, endpoint: Endpoint) -> None:
        batcher = endpoint.batcher
        self._totals.watch(f"{endpoint.name}/{endpoint.version}", batcher)
        batcher.__enter__()
        # Only noted: the last reference may go in a thread that holds the batcher's own lock.
        finalizer = weakref.finalize(endpoint, self.tasks.put, lambda: self._retire(batcher))
        finalizer.atexit = False

    def _retire(self, batcher: Batcher) -> None:
        with self._lock:
            self._batchers = tuple(each for each in self._batchers if each is not batcher)
            self._retired += (batcher,)
        batcher.retire()
        trim_memory()

    def find(self, name: str, version: str = "") -> Endpoint:
        """The endpoint of this version; where none is named, of the pinned or else the highest ready one.

        Raises UnknownModel, NotReady or InvalidRequest with the protocol's wording.
        """
        contents = self._contents
        ready = contents.endpoints.get(name, {})
        number = self._pins.get(name) or max(ready, default=0)
        if not version and number in ready:
            return ready[number]
        others = [at for one, at in (*contents.rejected, *contents.loading, *contents.unloaded) if one == name]
        if not ready and not others:
            raise UnknownModel(f"Request for unknown model: '{name}' is not found")
        asked = (number or max(others)) if not version else parse_version(version)
        if asked is None:
            raise InvalidRequest(
                f"failed to get model version from specified version string '{version}', "
                "version should be an integral value > 0"
            )
        if asked in ready:
            return ready[asked]
        if asked in others or not version:
            raise NotReady(
                f"Request for unknown model: '{name}' version {asked} is not at ready state",
                is_loading=(name, asked) in contents.loading,
            )
        raise UnknownModel(f"Request for unknown model: '{name}' version {asked} is not found")

    def __iter__(self) -> Iterator[Endpoint]:
        """All endpoints, by name and version."""
        endpoints = self._contents.endpoints
        for name in sorted(endpoints):
            for version in sorted(endpoints[name]):
                yield endpoints[name][version]

    def dispatch(self) -> bool:
        """Runs what a burst of calls has queued, short runs in this thread; returns True if others run now."""
        under_way = False
        for batcher in self._batchers:
            under_way |= batcher.dispatch()
        return under_way

    @property
    def batchers(self) -> Sequence[Batcher]:
        """Those of what is served, and of what was and still has requests."""
        with self._lock:
            self._retired = tuple(batcher for batcher in self._retired if not batcher.ended)
            return self._batchers + self._retired

    def stop_delaying(self) -> None:
        """Lets no request wait for company any more."""
        for batcher in self._batchers:
            batcher.stop_delaying()

    def versions(self, name: str) -> list[str]:
        """The versions that can be asked, lowest first."""
        return [str(version) for version in sorted(self._contents.endpoints.get(name, {}))]

    @property
    def names(self) -> Mapping[str, bool]:
        """The models that are known, and whether they can be asked."""
        contents = self._contents
        known = {name for name, _ in (*contents.rejected, *contents.loading, *contents.unloaded)}
        return dict.fromkeys(known, False) | dict.fromkeys(contents.endpoints, True)

    def index(self) -> list[IndexEntry]:
        """All versions that are known, by name and version."""
        contents = self._contents
        found = {place: IndexEntry(*place, "UNAVAILABLE", "unloaded") for place in contents.unloaded}
        found |= {place: IndexEntry(*place, "UNAVAILABLE", reason) for place, reason in contents.rejected.items()}
        found |= {place: IndexEntry(*place, "LOADING") for place in contents.loading}
        for name, versions in contents.endpoints.items():
            for version in versions:
                found[name, version] = IndexEntry(name, version, "READY", _ready_reason(contents, name, version))
        return [found[place] for place in sorted(found)]

    def report(self) -> ProcessReport:
        """What this process has done and serves. Any thread may ask."""
        states = {f"{entry.name}/{entry.version}": (entry.state, entry.reason) for entry in self.index()}
        return ProcessReport(self._totals.read(), states)


def _ready_reason(contents: Contents, name: str, version: int) -> str:
    """What an operator should know of a version that is ready."""
    unbatched = contents.endpoints[name][version].session.spec.unbatched_reason
    remarks = (
        f"not batched: {unbatched}" if unbatched else "",
        f"a newer file is not served: {contents.rejected[name, version]}"
        if (name, version) in contents.rejected
        else "",
        contents.remarks.get(name, ""),
    )
    return "; ".join(filter(None, remarks))
