"""The models on disk, and which of them can be asked: ``models/<name>/<version>/model.onnx``.

One file that cannot be served leaves the others serving; the reason is kept and told.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from service.batching.batcher import Batcher
from service.batching.policy import BatchingPolicy
from service.errors import InvalidRequest, ModelRejected, NotReady, StartError, UnknownModel
from service.runtime.execution_provider import Provider
from service.runtime.session import Session

log = structlog.get_logger(__name__)

FILE_NAME = "model.onnx"


@dataclass(frozen=True)
class Endpoint:
    """A model version that can be asked: its session, and the batcher in front of it."""

    name: str
    version: str
    session: Session
    batcher: Batcher


@dataclass(frozen=True)
class Limits:
    """How requests are gathered into runs."""

    max_batch_rows: int
    preferred_batch_size: int
    """Most rows joined from several requests; 0: what suits the provider."""
    max_queue_rows: int
    max_queue_s: float
    max_queue_delay_s: float
    max_inline_s: float


@dataclass
class Repository:
    """Endpoints by name and version, and why the other versions are none."""

    endpoints: dict[str, dict[int, Endpoint]] = field(default_factory=dict)
    rejected: dict[str, dict[int, str]] = field(default_factory=dict)

    def find(self, name: str, version: str = "") -> Endpoint:
        """The endpoint of this version, or of the highest ready one where none is named.

        Raises UnknownModel, NotReady or InvalidRequest with the protocol's wording.
        """
        ready, failed = self.endpoints.get(name, {}), self.rejected.get(name, {})
        if not ready and not failed:
            raise UnknownModel(f"Request for unknown model: '{name}' is not found")
        number = max(ready or failed) if not version else _version(version)
        if number is None:
            raise InvalidRequest(f"'{version}' is no version of '{name}': a version is a whole number above zero")
        if number in ready:
            return ready[number]
        if number in failed:
            raise NotReady(f"Request for unknown model: '{name}' version {number} is not at ready state")
        raise UnknownModel(f"Request for unknown model: '{name}' version {number} is not found")

    def __iter__(self) -> Iterator[Endpoint]:
        """All endpoints, by name and version."""
        for name in sorted(self.endpoints):
            for version in sorted(self.endpoints[name]):
                yield self.endpoints[name][version]

    def dispatch(self) -> bool:
        """Runs what a burst of calls has queued, short runs in this thread; whether others run now."""
        under_way = False
        for versions in self.endpoints.values():
            for endpoint in versions.values():
                under_way |= endpoint.batcher.dispatch()
        return under_way

    def stop_delaying(self) -> None:
        """Lets no request wait for company any more."""
        for endpoint in self:
            endpoint.batcher.stop_delaying()

    def versions(self, name: str) -> list[str]:
        """The versions that can be asked, lowest first."""
        return [str(version) for version in sorted(self.endpoints.get(name, {}))]

    @property
    def ready(self) -> bool:
        """Whether there is a model to ask."""
        return bool(self.endpoints)


@contextmanager
def open_repository(
    folder: Path,
    providers: Sequence[Provider],
    *,
    threads: int,
    limits: Limits,
    names: Sequence[str] = (),
    flush_scope: AbstractContextManager[None] | None = None,
    busy: threading.Event | None = None,
) -> Iterator[Repository]:
    """Opens every model of the folder; on leaving, ends their batchers.

    ``names``: only these, and each of them must be served. All results of a run are delivered within ``flush_scope``.
    Raises StartError where one of the names, or a single model, or an execution provider cannot be had.
    """
    repository = Repository()
    found = _scan(folder)
    missing = sorted(set(names) - {name for name, _ in found})
    if missing:
        raise StartError(f"there is no model {missing[0]!r} in {folder}; it has {_listed(found)}")
    with ExitStack() as stack:
        for (name, version), path in found.items():
            if names and name not in names:
                continue
            try:
                endpoint = _open(name, version, path, providers, threads, limits, flush_scope, busy)
            except ModelRejected as error:
                log.error("model rejected", model=name, version=version, file=str(path), reason=str(error))
                repository.rejected.setdefault(name, {})[version] = str(error)
                continue
            stack.enter_context(endpoint.batcher)
            repository.endpoints.setdefault(name, {})[version] = endpoint
        unserved = [name for name in names if name not in repository.endpoints]
        if unserved:
            reason = "; ".join(repository.rejected[unserved[0]].values())
            raise StartError(f"the model {unserved[0]!r} must be served and cannot be: {reason}")
        if not repository.ready:
            raise StartError(
                f"no model in {folder} can be served; it has {_listed(found)}. "
                f"Expected: {folder}/<name>/<version>/{FILE_NAME}"
            )
        yield repository


def _open(
    name: str,
    version: int,
    path: Path,
    providers: Sequence[Provider],
    threads: int,
    limits: Limits,
    flush_scope: AbstractContextManager[None] | None,
    busy: threading.Event | None,
) -> Endpoint:
    session = Session(path, providers, threads=threads, max_batch_rows=limits.max_batch_rows)
    policy = BatchingPolicy(
        max_batch_rows=limits.max_batch_rows if session.spec.batches else 1,
        preferred_batch_size=limits.preferred_batch_size or session.preferred_batch_size or 0,
        max_run_rows=max(session.preferred_batch_size or 0, limits.preferred_batch_size),
        max_queue_rows=limits.max_queue_rows,
        max_queue_s=limits.max_queue_s,
        max_inline_s=limits.max_inline_s,
        instance_count=session.instance_count,
        # Beside another run a full one only: what else waits is better joined by what comes meanwhile.
        min_parallel_rows=providers[0].preferred_batch_size or 1,
        max_queue_delay_s=limits.max_queue_delay_s if session.spec.batches else 0.0,
    )
    batcher = Batcher(lambda inputs, _: session.run(inputs), policy, flush_scope=flush_scope, busy=busy, name=name)
    log.info(
        "model ready",
        model=name,
        version=version,
        provider=session.provider,
        arithmetic=session.arithmetic.name,
        batches=session.spec.batches,
        buckets=session.buckets,
        preferred_batch_size=batcher.preferred_batch_size,
        one_thread_rows=session.one_thread_rows,
        runs_at_a_time=session.instance_count,
        test_accuracy=session.metadata.test_accuracy,
        probe_deviation=session.probe_deviation,
        probe_tolerance=session.probe_tolerance,
    )
    return Endpoint(name, str(version), session, batcher)


def _scan(folder: Path) -> dict[tuple[str, int], Path]:
    """The model files of the folder, by name and version."""
    try:
        return {
            (model.name, version): path / FILE_NAME
            for model in sorted(folder.iterdir())
            if model.is_dir()
            for path in sorted(model.iterdir())
            if (version := _version(path.name)) is not None and (path / FILE_NAME).exists()
        }
    except OSError as error:
        raise StartError(
            f"the models folder {folder} cannot be read: {error.strerror}. "
            "Build models with `python -m training.export --all`, or name another folder with --models-dir"
        ) from error


def _version(text: str) -> int | None:
    """The number of a version, 1 and up, written without sign or leading zeros; else None."""
    return int(text) if text.isascii() and text.isdigit() and not text.startswith("0") and len(text) < 19 else None


def _listed(found: dict[tuple[str, int], Path]) -> str:
    return ", ".join(sorted({name for name, _ in found})) or "none"
