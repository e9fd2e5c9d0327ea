"""A model version that can be asked: its session, and the batcher in front of it."""

import hashlib
import math
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from ..batching.batcher import Batcher
from ..batching.policy import Batching, BatchingPolicy
from ..errors import ModelRejected
from .execution_provider import Provider
from .file_check import check_file
from .model_config_file import ModelConfigFile
from .model_folder import VersionFile, file_state, model_parts
from .session import Session

log = structlog.get_logger(__name__)


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


@dataclass(frozen=True, eq=False)
class Endpoint:
    """A model version that can be asked. Whoever holds it may submit to its batcher, which lives as long."""

    name: str
    version: str
    session: Session
    batcher: Batcher
    file: VersionFile
    digest: str
    """SHA-256 of the file, and of those beside it that may belong to it; empty if nothing compares it."""


@dataclass(frozen=True)
class EndpointOpener:
    """Opens endpoints by what was set."""

    providers: Sequence[Provider]
    options: ServingOptions
    flush_scope: AbstractContextManager[None] | None = None
    """All results of a run are delivered within it."""
    busy: threading.Event | None = None
    """Set when a long run begins."""
    digests: bool = False
    """True if files are hashed, so that several processes can tell whether they have the same."""

    def open(self, name: str, version: int, file: VersionFile) -> Endpoint:
        """Opens, proves and warms; the batcher does not run yet. Raises ModelRejected or ProviderUnavailable."""
        check_file(file.path)
        digest = _digest(file.path) if self.digests else ""
        config, options = file.config, self._options_for(file.config)
        chosen = options.batching.get(name, options.batching.get("", "auto"))
        if config.max_batch_size == 0 and chosen == "auto":
            chosen = "off"
        session = Session(
            file.path,
            self.providers,
            threads=options.threads,
            max_batch_rows=options.max_batch_rows,
            batching=chosen,
        )
        if options.require_probe:
            session.metadata.require_proof()
        if file_state(file.path) != file.state:
            raise ModelRejected("it was changed while it was opened; it is opened again at the next reload")
        _apply_labels(session, config, name, version)
        policy = _policy(session, self.providers[0], options)
        batcher = Batcher(session.run, policy, flush_scope=self.flush_scope, busy=self.busy, name=name)
        endpoint = Endpoint(name, str(version), session, batcher, file, digest)
        _log_ready(endpoint)
        return endpoint

    def _options_for(self, config: ModelConfigFile) -> ServingOptions:
        if not config.max_batch_size:
            return self.options
        return replace(self.options, max_batch_rows=min(config.max_batch_size, self.options.max_batch_rows))


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    for part in model_parts(path):
        with part.open("rb") as file:
            digest.update(f"{part.name}\0".encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _apply_labels(session: Session, config: ModelConfigFile, name: str, version: int) -> None:
    """The labels of config.pbtxt, where the file has none of its own."""
    own = session.metadata.labels
    if config.labels and not own:
        session.metadata = replace(session.metadata, labels=config.labels)
    elif config.labels and config.labels != own:
        log.warning("labels of config.pbtxt are not used: the file has its own", model=name, version=version)


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
        max_inline_s=0.0 if session.has_control_flow else options.max_inline_s,
        instance_count=session.instance_count,
        # Beside another run a full one only: what else waits is better joined by what comes meanwhile.
        min_parallel_rows=provider.preferred_batch_size or 1,
    )


def _log_ready(endpoint: Endpoint) -> None:
    session = endpoint.session
    if session.metadata.outdated:
        log.warning(
            "model of an old format",
            model=endpoint.name,
            version=int(endpoint.version),
            reason="its metadata is of format 1: hashes are missing, and changes of the file go unseen. "
            "`convserve export --renew` writes it anew",
        )
    log.info(
        "model ready",
        model=endpoint.name,
        version=int(endpoint.version),
        provider=session.provider,
        arithmetic=session.arithmetic.name,
        batches=session.spec.batches,
        **({} if session.spec.batches else {"unbatched_reason": session.spec.unbatched_reason}),
        buckets=session.buckets,
        preferred_batch_size=endpoint.batcher.preferred_batch_size,
        one_thread_rows=session.one_thread_rows,
        runs_at_a_time=session.instance_count,
        test_accuracy=session.metadata.test_accuracy,
        probe_deviation=session.probe_deviation,
        probe_tolerance=session.probe_tolerance,
    )
