"""The models on disk, and which of them can be asked: ``models/<name>/<version>/model.onnx``.

One file that cannot be served leaves the others serving; the reason is kept and told.
"""

import math
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from service.batching.batch import TensorMap
from service.batching.batcher import Batcher
from service.batching.policy import Batching, BatchingPolicy
from service.batching.run import Run
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
class ServingOptions:
    """How the models are run; what suits one model is found when it is opened."""

    threads: int
    max_batch_rows: int
    max_queue_rows: int
    preferred_batch_size: int = 0
    """Most rows joined from several requests; 0: what suits provider and model."""
    max_queue_s: float = math.inf
    max_queue_delay_s: float = 0.0
    max_inline_s: float = 0.0
    batching: Mapping[str, Batching] = field(default_factory=dict)
    """By name of the model, "" for all others."""
    require_probe: bool = False
    """True if files without hashes and a probe are rejected."""


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
            raise InvalidRequest(
                f"failed to get model version from specified version string '{version}', "
                "version should be an integral value > 0"
            )
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
    options: ServingOptions,
    *,
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
    chosen = {place: path for place, path in found.items() if not names or place[0] in names}
    _warn_of_unknown(options.batching, {name for name, _ in found})
    with ExitStack() as stack:
        opened = _open_side_by_side(chosen, providers, options)
        for (name, version), session in opened.items():
            if isinstance(session, ModelRejected):
                file = str(chosen[name, version])
                log.error("model rejected", model=name, version=version, file=file, reason=str(session))
                repository.rejected.setdefault(name, {})[version] = str(session)
                continue
            policy = _policy(session, providers[0], options)
            batcher = Batcher(_ignoring_run(session), policy, flush_scope=flush_scope, busy=busy, name=name)
            stack.enter_context(batcher)
            _log_ready(name, version, session, batcher)
            repository.endpoints.setdefault(name, {})[version] = Endpoint(name, str(version), session, batcher)
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


def _open_side_by_side(
    chosen: Mapping[tuple[str, int], Path], providers: Sequence[Provider], options: ServingOptions
) -> dict[tuple[str, int], Session | ModelRejected]:
    """The sessions, or why there is none, in the order of ``chosen``; raises ProviderUnavailable."""

    def open_one(name: str, path: Path) -> Session | ModelRejected:
        try:
            session = Session(
                path,
                providers,
                threads=options.threads,
                max_batch_rows=options.max_batch_rows,
                batching=options.batching.get(name, options.batching.get("", "auto")),
            )
            if options.require_probe:
                session.metadata.require_proof()
        except ModelRejected as error:
            return error
        return session

    with ThreadPoolExecutor(max(1, options.threads), "opener") as openers:
        opening = {place: openers.submit(open_one, place[0], path) for place, path in chosen.items()}
        try:
            return {place: session.result() for place, session in opening.items()}
        except BaseException:
            openers.shutdown(wait=True, cancel_futures=True)
            raise


def _ignoring_run(session: Session) -> Callable[[TensorMap, Run], TensorMap]:
    return lambda inputs, _run: session.run(inputs)


def _policy(session: Session, provider: Provider, options: ServingOptions) -> BatchingPolicy:
    """What suits the model, but for what was set."""
    batches = session.spec.batches
    suited = session.preferred_batch_size or 0
    return BatchingPolicy(
        max_batch_rows=options.max_batch_rows if batches else 1,
        preferred_batch_size=options.preferred_batch_size or suited,
        max_run_rows=max(suited, options.preferred_batch_size) if suited else 0,
        max_queue_rows=options.max_queue_rows,
        max_queue_s=options.max_queue_s,
        max_queue_delay_s=options.max_queue_delay_s if batches else 0.0,
        max_inline_s=options.max_inline_s,
        instance_count=session.instance_count,
        # Beside another run a full one only: what else waits is better joined by what comes meanwhile.
        min_parallel_rows=provider.preferred_batch_size or 1,
    )


def _log_ready(name: str, version: int, session: Session, batcher: Batcher) -> None:
    if session.metadata.outdated:
        log.warning(
            "model of an old format",
            model=name,
            version=version,
            reason="its metadata is of format 1: hashes are missing, and changes of the file go unseen. "
            "`python -m training.export --renew` writes it anew",
        )
    log.info(
        "model ready",
        model=name,
        version=version,
        provider=session.provider,
        arithmetic=session.arithmetic.name,
        batches=session.spec.batches,
        **({} if session.spec.batches else {"unbatched_reason": session.spec.unbatched_reason}),
        buckets=session.buckets,
        preferred_batch_size=batcher.preferred_batch_size,
        one_thread_rows=session.one_thread_rows,
        runs_at_a_time=session.instance_count,
        test_accuracy=session.metadata.test_accuracy,
        probe_deviation=session.probe_deviation,
        probe_tolerance=session.probe_tolerance,
    )


def _warn_of_unknown(batching: Mapping[str, Batching], known: Collection[str]) -> None:
    for name in sorted(set(batching) - {"", *known}):
        log.warning("--batching names a model that is not there", model=name, models=sorted(known))


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


def model_path(folder: Path, name: str, version: str = "") -> Path:
    """The file of a model's version, or of its highest; raises StartError where there is none."""
    found = {number: path for (model, number), path in _scan(folder).items() if model == name}
    number = max(found, default=None) if not version else _version(version)
    if number not in found:
        which = f"version {version!r} of the model {name!r}" if version else f"model {name!r}"
        raise StartError(f"there is no {which} in {folder}; it has {_listed(_scan(folder))}")
    return found[number]


def _version(text: str) -> int | None:
    """The number of a version, 1 and up, written without sign or leading zeros; else None."""
    return int(text) if text.isascii() and text.isdigit() and not text.startswith("0") and len(text) < 19 else None


def _listed(found: dict[tuple[str, int], Path]) -> str:
    return ", ".join(sorted({name for name, _ in found})) or "none"
