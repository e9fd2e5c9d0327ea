"""Puts the parts of one server together: start order is written once, stop order is its reverse."""

import gc
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import structlog

from . import __version__
from .access.guard import Guard
from .access.shared_counts import SharedCounts
from .access.token_store import TokenStore
from .api import image_classifier
from .api import open_inference as inference_protocol
from .api.image_classifier import ImageClassifier
from .api.model_errors import ModelErrors
from .api.model_repository import ModelRepository
from .api.model_statistics import ModelStatistics
from .api.open_inference import InferenceProtocol
from .cpu import usable_cores
from .errors import StartError
from .memory import keep_freed_memory, trim_memory
from .process.start_summary import LOOPBACK, MOST_MODELS, ServedModel
from .process.watchdog import Watchdog
from .rpc import FlushScope, Methods, NativeTransport, TlsFiles, Transport, TransportOptions
from .runtime import providers
from .runtime.endpoint import EndpointOpener, ServingOptions
from .runtime.model_control import ControlOptions, ModelControl, open_models
from .runtime.model_folder import ModelFolder, parse_place
from .runtime.model_loader import ModelLoader
from .runtime.repository import Contents, Repository
from .settings import Settings, split_names
from .telemetry.telemetry import telemetry

if TYPE_CHECKING:
    from .metrics.process import ProcessMetrics

INLINE_US, INLINE_BESIDE_US = 2000, 500
"""The longest runs in the thread that receives: where they leave no core for it, and where there is one beside them."""
AGE_OF_GRACE = 0.8
"""Where workers use TLS, how old connections grow, in grace periods: all must have gone by the end of one."""

LEAVE_S = 2.0
"""How long clients have, after the drain delay, to take their requests elsewhere."""

log = structlog.get_logger(__name__)

PREDICTABLE = 0.9
"""Of --max-queue-ms, what a predicted wait may take: under overload the p99 was up to a tenth longer than predicted
(benchmarks --only overload)."""


class Server:
    """A running server: it listens, and answers until it is drained."""

    def __init__(
        self,
        transports: Sequence[Transport],
        repository: Repository,
        readiness: "Readiness",
        control: ModelControl,
        metrics: "ProcessMetrics | None",
    ) -> None:
        """``transports``: gRPC first, and HTTP where it is served; ``metrics``: None where nothing reads them."""
        self.metrics = metrics
        self._transports = transports
        self.repository = repository
        """The models, and what they have done."""
        self._readiness = readiness
        self._told: dict[str, bool] = {}  # what the health protocol knows
        self.control = control
        """Changes the models."""
        repository.on_change(self._announce)

    @property
    def port(self) -> int:
        """The TCP port it listens on."""
        return self._transports[0].port

    @property
    def http_port(self) -> int | None:
        """The TCP port of HTTP; None where it is not served."""
        return self._transports[1].port if len(self._transports) > 1 else None

    def served_models(self) -> list[ServedModel]:
        """The models and how they run, for the summary of the start."""
        return [
            ServedModel(
                endpoint.name,
                endpoint.version,
                endpoint.session.provider,
                endpoint.session.arithmetic.name,
                endpoint.session.probe_deviation,
                endpoint.session.probe_tolerance,
            )
            for endpoint in islice(self.repository, MOST_MODELS)
        ]

    def announce(self, *, ready: bool) -> None:
        """Sets readiness everywhere it is told: ServerReady, ModelReady and the health protocol."""
        self._readiness.ready = ready
        self._announce()

    def _announce(self) -> None:
        ready = self._readiness.ready
        serving = dict.fromkeys(("", inference_protocol.SERVICE, image_classifier.SERVICE), ready)
        serving |= {f"model/{name}": ready and served for name, served in self.repository.names.items()}
        serving = dict.fromkeys(self._told, False) | serving
        # Whoever watches is told of changes only.
        changed = {name: state for name, state in serving.items() if self._told.get(name) != state}
        for transport in self._transports:
            transport.set_ready(changed)
        self._told = serving

    def hand_over(self, *, grace_s: float, abort: Callable[[], bool]) -> None:
        """Leaves the port to others, within the grace and until ``abort``; no request is lost."""
        ends = time.monotonic() + grace_s
        for transport in reversed(self._transports):
            if not transport.hand_over(max(0.0, ends - time.monotonic()), abort) and not abort():
                log.warning("clients did not go when they were told to", grace_s=grace_s)

    def drain(self, *, delay_s: float, grace_s: float) -> bool:
        """Not ready any more, and connections asked to go → after the delay no new ones, and after it no new requests.

        Those in flight are answered, within the grace. Clients that come back during the delay are served too: load
        balancers may still send them here.
        """
        self.announce(ready=False)
        for transport in self._transports:
            transport.send_goaway()
        if delay_s:
            time.sleep(delay_s)
            for transport in reversed(self._transports):
                transport.leave(LEAVE_S)
        for transport in self._transports:
            transport.stop_admitting()
        self.repository.stop_delaying()
        ends = time.monotonic() + grace_s
        drained = [transport.drain(max(0.0, ends - time.monotonic())) for transport in self._transports]
        return all(drained)


@dataclass(frozen=True)
class SharedPort:
    """What a server is given that serves its port together with others."""

    versions: Collection[str] | None
    """Its start opens only these, by name/version; None: what the settings say."""
    token_counts: SharedCounts | None
    """Where the requests of tokens are counted, which their limits are for."""


class Readiness:
    """Whether the server may be sent requests; read by its methods, set by its life."""

    def __init__(self) -> None:
        self.ready = False


def longest_inline_us(provider: str, threads: int, cores: int) -> int:
    """How long a run in the thread that receives may take by default, of so many threads on so many cores."""
    # More than two cores were not to be had for measuring (benchmarks/README.md).
    return INLINE_US if provider == "cpu" and cores <= min(threads, 2) else INLINE_BESIDE_US


@contextmanager
def running(
    settings: Settings,
    *,
    admit: Callable[[Contents], None] | None = None,
    shared: SharedPort | None = None,
) -> Iterator[Server]:
    """A server that listens and is ready; on leaving, it closes. Raises StartError.

    ``admit`` gets what has been opened, and returns when it may be served. ``shared``: others serve the port too.
    """
    cores = usable_cores()
    threads = settings.threads or cores
    chosen = providers.choose(split_names(settings.providers), settings.provider_options)
    options = _options(settings, chosen[0].name, threads, cores)
    flush_scope = FlushScope()
    busy = threading.Event()
    with ExitStack() as stack:
        repository = Repository(settings.default_versions)
        control = stack.enter_context(
            open_models(
                _loader(
                    settings, EndpointOpener(chosen, options, flush_scope, busy, digests=shared is not None), repository
                ),
                repository,
                _control(settings, None if shared is None else shared.versions),
            )
        )
        if admit is not None:
            admit(repository.contents)
        decoders = stack.enter_context(ThreadPoolExecutor(settings.decode_threads or cores, "decoder"))
        stack.callback(decoders.shutdown, wait=True, cancel_futures=True)
        readiness = Readiness()
        model_errors = ModelErrors(hide=settings.hide_model_errors)
        methods = (
            InferenceProtocol(
                repository,
                server_name=settings.server_name,
                server_version=__version__,
                is_ready=lambda: readiness.ready,
                model_errors=model_errors,
            ).methods
            | ImageClassifier(
                repository,
                decoders,
                max_image_pixels=settings.max_image_pixels,
                max_decoding=settings.max_queue_rows,
                digit_normalization=settings.digit_normalization == "auto",
                model_errors=model_errors,
            ).methods
            | ModelStatistics(repository).methods
            | ModelRepository(repository, control).methods
        )
        transports = _transports(settings, methods, repository, flush_scope, stack, shared)
        stack.callback(control.stop)  # first of all: what it changes, the transport is told
        watchdog = stack.enter_context(
            Watchdog(
                [transport.call_soon for transport in transports],
                lambda: repository.batchers,
                busy=busy,
                limit_s=settings.watchdog_s,
            )
        )
        server = Server(
            *(transports, repository, readiness, control),
            _metrics(settings, repository, readiness, watchdog, [transport.port for transport in transports]),
        )
        server.announce(ready=True)
        log.info(
            "listening",
            address=f"{settings.host}:{server.port}",
            **({} if server.http_port is None else {"http_address": f"{settings.host}:{server.http_port}"}),
            transport=settings.transport,
            models=len(list(repository)),
            threads=settings.threads or cores,
        )
        trim_memory()
        keep_freed_memory()
        # What was made for the start stays: looking through it for garbage again and again takes 14 ms each time.
        gc.collect()
        gc.freeze()
        yield server


def _guard(settings: Settings, stack: ExitStack, counts: SharedCounts | None) -> Guard | None:
    """The check of tokens; None where there are none."""
    if settings.tokens_file is None:
        if settings.model_control == "explicit":
            log.warning("whoever reaches the port may load and unload models: --tokens-file says who may")
        return None
    if settings.tls_certificate_file is None and settings.host not in LOOPBACK:
        log.warning("tokens are sent in plain text: use TLS here, or a proxy that has it")
    tokens = stack.enter_context(TokenStore(settings.tokens_file, counts))
    return Guard(tokens, protect_health=settings.protect_health)


def _metrics(
    settings: Settings, repository: Repository, readiness: Readiness, watchdog: Watchdog, ports: Sequence[int]
) -> "ProcessMetrics | None":
    if not settings.metrics_port:
        return None
    from .metrics.process import ProcessMetrics, Sources  # not above: it is for those who want metrics alone

    return ProcessMetrics(
        Sources(
            repository,
            is_ready=lambda: readiness.ready,
            watchdog=watchdog,
            ports=ports,
            transport=settings.transport,
            triton_names=settings.metrics_triton_names,
        )
    )


def _options(settings: Settings, provider: str, threads: int, cores: int) -> ServingOptions:
    inline_us = settings.max_inline_us
    if inline_us is None:
        inline_us = longest_inline_us(provider, threads, cores)
    return ServingOptions(
        threads=threads,
        max_batch_rows=settings.max_batch_rows,
        max_queue_rows=settings.max_queue_rows,
        preferred_batch_size=settings.preferred_batch_size,
        max_queue_s=PREDICTABLE * settings.max_queue_ms / 1e3,
        max_queue_delay_s=settings.max_queue_delay_us / 1e6,
        max_inline_s=inline_us / 1e6,
        batching=settings.batching_by_model,
        require_probe=settings.require_probe,
    )


def _loader(settings: Settings, opener: EndpointOpener, repository: Repository) -> ModelLoader:
    return ModelLoader(
        ModelFolder(settings.models_folder, settings.named_models),
        opener,
        repository,
        policies=settings.version_policies,
        pins=settings.default_versions,
        must_serve=split_names(settings.models),
    )


def _control(settings: Settings, versions: Collection[str] | None) -> ControlOptions:
    return ControlOptions(
        names=split_names(settings.models),
        mode=settings.model_control,
        poll_s=settings.model_poll_s if settings.model_control == "poll" and not settings.workers else None,
        ready_when=settings.ready_when,
        lossy=settings.reload_lossy,
        first_places=None if versions is None else frozenset(map(parse_place, versions)),
    )


def _transports(
    settings: Settings,
    methods: Methods,
    repository: Repository,
    flush_scope: FlushScope,
    stack: ExitStack,
    shared: SharedPort | None,
) -> Sequence[Transport]:
    """What listens: gRPC, and HTTP where it is served; their methods are within the limits of tokens, and told of."""
    guard = _guard(settings, stack, None if shared is None else shared.token_counts)
    told = stack.enter_context(telemetry(settings, (lambda _: "") if guard is None else guard.name_of))
    methods = told.observe(methods if guard is None else guard.limited(methods))
    options = TransportOptions(
        max_message_bytes=settings.max_message_mib * 2**20,
        check=None if guard is None else guard.check,
        slow_calls=told.slow_calls,
        on_immediate=told.on_immediate,
        tls=_tls(settings),
        reuse_port=shared is not None,
        busy_poll_s=settings.busy_poll_us / 1e6,
        connection_idle_s=settings.connection_idle_s,
        max_connection_age_s=settings.max_connection_age_s,
        max_connection_age_grace_s=settings.grace_s,
    )
    transports = [stack.enter_context(_transport(settings, methods, repository, flush_scope, options))]
    if settings.http_port is not None:
        transports.append(stack.enter_context(_http(settings, methods, repository, flush_scope, options)))
    return transports


def _transport(
    settings: Settings, methods: Methods, repository: Repository, flush_scope: FlushScope, options: TransportOptions
) -> Transport:
    address = f"{settings.host}:{settings.port}"
    if settings.transport == "native":
        return NativeTransport(address, methods, repository.dispatch, options, flush_scope)
    from .rpc.grpc_aio_server import GrpcioTransport  # not above: grpc.aio and uvloop are for it alone

    if options.tls and options.reuse_port:  # GOAWAY cannot be written into TLS: ages see to it that all go
        age_s = AGE_OF_GRACE * max(settings.grace_s, 1)
        options = replace(options, max_connection_age_s=min(age_s, options.max_connection_age_s or age_s))
    return GrpcioTransport(address, methods, repository.dispatch, options)


def _http(
    settings: Settings, methods: Methods, repository: Repository, flush_scope: FlushScope, options: TransportOptions
) -> Transport:
    try:
        from .rest.server import HttpTransport  # not above: uvicorn and Starlette are for it alone
    except ImportError as error:
        raise StartError(f"--http-port needs the extra 'rest': pip install convserve[rest] ({error})") from error
    address = f"{settings.host}:{settings.http_port}"
    return HttpTransport(address, methods, repository, options, flush_scope)


def _tls(settings: Settings) -> TlsFiles | None:
    if settings.tls_certificate_file is None or settings.tls_key_file is None:
        return None
    return TlsFiles(settings.tls_certificate_file, settings.tls_key_file, settings.tls_client_ca_file)
