"""Every knob of the server, read once: command line over environment over default."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from .batching.policy import BATCHING, Batching
from .cpu import suggested_workers, usable_cores
from .options import Field, FilePath, checked, number, read_options
from .runtime.version_policy import VersionPolicies, parse_pins, parse_policies

PROG = f"python -m {__package__}"
PROVIDERS = ("cpu", "openvino", "cuda")
"""Whose options begin with their names; they are described in provider.py, which is not imported for its weight."""
BUNDLED_MODELS = Path(__file__).parent.parent / "models"
"""The models that come with the package, beside it."""


def split_names(text: str) -> tuple[str, ...]:
    """The names in a list separated by commas."""
    return tuple(name for name in (part.strip() for part in text.split(",")) if name)


def _batching_by_model(text: str) -> dict[str, Batching]:
    """``off`` or ``NAME=off,on`` and the like; raises ValueError."""
    chosen: dict[str, Batching] = {}
    for part in split_names(text):
        name, _, wanted = part.rpartition("=")
        if wanted not in BATCHING:
            raise ValueError(f"'{part}' is neither auto, on or off nor NAME=auto, NAME=on or NAME=off")
        chosen[name.strip()] = BATCHING[wanted]
    return chosen


def _workers(text: str) -> int:
    return suggested_workers(usable_cores()) if text == "auto" else int(number(int, text))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _named_models(text: str) -> dict[str, Path]:
    """``NAME=PATH,NAME=PATH``; raises ValueError."""
    named = {}
    for part in split_names(text):
        name, _, path = part.partition("=")
        if not name or not path or "/" in name:
            raise ValueError(f"'{part}' is not NAME=PATH")
        if name in named:
            raise ValueError(f"'{name}' is there twice")
        named[name] = Path(path)
    return named


PARSERS: Mapping[str, Callable[[str], object]] = {
    "workers": _workers,
    "host": _bracketed,
    "metrics_host": _bracketed,
    "batching": checked(_batching_by_model),
    "model": checked(_named_models),
    "version_policy": checked(parse_policies),
    "default_version": checked(parse_pins),
}
"""What makes more of an option's text than its type says."""


@dataclass(frozen=True)
class Settings:
    """Serve the models of a folder over gRPC: the Open Inference Protocol and convserve.v1.ImageClassifier.

    Every option can also be given as an environment variable, CONVSERVE_ and its name in capitals.
    """

    models_dir: Path = Path("models")
    """Folder of <name>/<version>/model.onnx; if not given, and there is no folder models: the models of the package."""
    model: str = Field(default="", repeatable=True)
    """NAME=PATH: serve the model at this path by this name; may be repeated, or a list separated by commas. PATH is an
    ONNX file, a folder with one, a model's folder of versions, or the one above that. Without models_dir only these."""
    models: str = ""
    """Serve only these, separated by commas, and refuse to start without one of them; empty: all that can be."""
    version_policy: str = "all"
    """Versions that are served: all, latest:N or numbers (1,3); for single models NAME=..., separated by semicolons.
    Without it a model's config.pbtxt decides. Where one of the latest cannot be served, the next lower one is."""
    default_version: str = ""
    """NAME=VERSION, separated by commas: what answers where no version is asked for; else the highest that is ready."""
    ready_when: Literal["first", "all"] = "all"
    """When the port opens: as soon as the first model can be asked, or when all files have been opened. Workers wait
    for all."""
    model_control: Literal["none", "poll", "explicit"] = "none"
    """What may change the models besides SIGHUP, which always has the folder read again. poll: changes of the folder;
    explicit: RepositoryModelLoad and RepositoryModelUnload, and only what models names is served at the start."""
    model_poll_s: float = Field(default=5.0, ge=0.1, le=86_400)
    """How often the folder is looked at, in seconds, with model_control poll."""
    model_load_timeout_s: float = Field(default=600.0, ge=0.1, le=86_400)
    """With workers: how long each may take to open the models of a change, in seconds. After that the change is
    refused, the old versions go on, and the worker is replaced. The start has no such limit."""
    reload_lossy: bool = False
    """Let a reload lose models that are served; without it, such a reload is refused, and the old ones go on."""
    require_probe: bool = False
    """Serve only files whose metadata has hashes and a probe, so that all that they claim is proved at load."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all of IPv4, [::] for all addresses."""
    port: int = Field(default=8001, ge=0, le=65535)
    """TCP port; 0 takes a free one and logs it."""
    http_port: int | None = Field(default=None, ge=0, le=65535)
    """TCP port of HTTP: the Open Inference Protocol, and images classified by curl or a page; 0 takes a free one and
    logs it. If not given: none. Needs the extra 'rest'."""
    transport: Literal["native", "grpcio"] = "native"
    """native: our own HTTP/2, made for speed; grpcio: grpc.aio."""
    workers: int = Field(default=0, ge=0, le=256)
    """Worker processes on the port, which share the cores, are restarted when they die, and renewed on SIGHUP, with
    the models then in the folder; auto: one for each two usable cores. 0: this process serves by itself, and SIGHUP
    has it serve the models then in the folder."""
    providers: str = "auto"
    """Execution providers, separated by commas: the first runs the models, the others may take what it cannot.
    Each must work or the server does not start. auto: cuda where there is a device, else cpu."""
    threads: int = Field(default=0, ge=0, le=1024)
    """Threads that compute one run on the CPU; 0: as many as the cores this process may use."""
    cpu_spin_us: int = Field(default=20, ge=0, le=1_000_000)
    """cpu: how long idle threads look for work within a run before they sleep, in microseconds; 0: they sleep at once,
    which costs no processor time and makes short runs of several threads up to a quarter longer."""
    cpu_instances: int = Field(default=0, ge=0, le=1024)
    """cpu: how many runs of one model may be under way at a time, each by one thread; 0: what `convserve tune`
    measured for the model, else as many as threads for small models and 1 for others."""
    cpu_one_thread_rows: int = Field(default=-1, ge=-1, le=65536)
    """cpu: up to so many, rows are run by one thread although there are more; -1: as measured, else what one thread
    does in some 100 us. Where cpu_instances or this want runs of one thread, the model is held in memory twice."""
    openvino_device: Literal["cpu", "gpu"] = "cpu"
    """openvino: which of Intel's processors runs the models."""
    openvino_precision: Literal["fp32", "bf16"] = "fp32"
    """openvino: what to compute in; bf16 is fast on CPUs with AMX, and may be off by 2 % of the largest logit."""
    cuda_device: int = Field(default=0, ge=0, le=255)
    """cuda: number of the GPU, as nvidia-smi counts them."""
    cuda_memory_mib: int = Field(default=0, ge=0, le=2**24)
    """cuda: most GPU memory for each batch size of each instance of a model, in MiB; 0: no limit."""
    cuda_tf32: bool = False
    """cuda: use tensor cores: fp16 files are fast only so; fp32 files may be off by 0.2 % of the largest logit."""
    cuda_graphs: bool = False
    """cuda: record each batch size as a CUDA graph at the start, and replay it: fewer launches for small models."""
    cuda_instances: int = Field(default=1, ge=1, le=16)
    """cuda: how many runs of one model may be under way at a time; each takes its own GPU memory."""
    max_batch_rows: int = Field(default=256, ge=1, le=65536)
    """Most rows (images) in one run, and in one request."""
    preferred_batch_size: int = Field(default=0, ge=0, le=65536)
    """Most rows joined from several requests into one run; 0: what `convserve tune` measured for the model,
    else what suits provider and model (on the CPU 64, more of the smallest models)."""
    batching: str = "auto"
    """Whether requests may share a run: auto (where the rows of a model are found not to depend on each other), off, or
    on (refuse a model whose rows do); for all models, or NAME=off,NAME=on. auto lets a file's metadata decide."""
    max_inline_us: int | None = Field(default=None, ge=0, le=1_000_000)
    """Runs expected to be this short, in microseconds, happen in the thread that receives the requests. If not given:
    2000 where a run on the CPU takes both of two cores, or the only one, else 500."""
    max_queue_rows: int = Field(default=4096, ge=1)
    """Most rows that may wait for one model; more are refused with RESOURCE_EXHAUSTED."""
    max_queue_ms: int = Field(default=400, ge=1, le=3_600_000)
    """How long a request may be expected to wait for its run, in milliseconds; if longer, it is refused at once with
    RESOURCE_EXHAUSTED. A tenth of it is kept for expectations that turn out short. As many rows as one request may
    have can always wait."""
    max_queue_delay_us: int = Field(default=0, ge=0, le=60_000_000)
    """How long a request may wait for others to join it, in microseconds; 0: never longer than the run that is on."""
    max_message_mib: int = Field(default=64, ge=1, le=2047)
    """Largest message accepted, in MiB; larger ones are refused with RESOURCE_EXHAUSTED."""
    busy_poll_us: int = Field(default=50, ge=0, le=10_000)
    """native: how long to look for the next requests before sleeping, in microseconds, if the last ones came within
    twice that; 0: always sleep at once, which costs no processor time and answers a lone request 60 us later."""
    max_image_pixels: int = Field(default=50_000_000, ge=1)
    """Largest image that is decoded, in pixels (height x width)."""
    digit_normalization: Literal["auto", "off"] = "auto"
    """auto: for models whose files ask for it, Classify brings digits into MNIST's form: white on black, 20 x 20,
    centred by mass. Images that have it, tensors, and raw pixels of the model's size are not touched. off: never."""
    decode_threads: int = Field(default=0, ge=0, le=1024)
    """Threads that decode images; 0: as many as the cores this process may use."""
    hide_model_errors: bool = False
    """Do not tell callers why a model failed at their request; the log has it in any case."""
    server_name: str = "convserve"
    """The name that ServerMetadata tells; some Triton clients expect 'triton'."""
    grace_s: float = Field(default=30.0, ge=0, le=3600)
    """How long requests in flight may take after SIGTERM, in seconds."""
    drain_delay_s: float = Field(default=0.0, ge=0, le=3600)
    """How long requests are still taken after SIGTERM, not ready any more, in seconds: time for load balancers."""
    max_connection_age_s: float = Field(default=0.0, ge=0, le=31_536_000)
    """Clients are asked to connect anew after so long, in seconds, and have grace_s to do so; 0: never."""
    connection_idle_s: float = Field(default=0.0, ge=0, le=31_536_000)
    """Connections without a request for so long, in seconds, are asked to go; 0: never."""
    watchdog_s: float = Field(default=60.0, ge=0, le=86_400)
    """The process ends, to be started again, when the thread that receives stands still, or one run lasts, for longer
    than this, in seconds; 0: never. From 1 s on the log tells of it."""
    tokens_file: FilePath | None = None
    """Calls, and /metrics, need one of the bearer tokens whose hashes are in this TOML file, which `convserve
    tokens` makes; without it, whoever reaches the port may call everything."""
    protect_health: bool = False
    """With a tokens file: health, readiness and reflection need a token too."""
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """TCP port of /metrics, which Prometheus reads, over plain HTTP; 0: none."""
    metrics_host: str = "127.0.0.1"
    """Address of /metrics; 0.0.0.0 for all of IPv4, [::] for all addresses."""
    metrics_triton_names: bool = False
    """Have /metrics tell seven metrics by Triton's names too: nv_inference_request_success and so on."""
    tls_certificate_file: FilePath | None = None
    """Serve TLS with this PEM certificate chain."""
    tls_key_file: FilePath | None = None
    """The PEM private key of the certificate."""
    tls_client_ca_file: FilePath | None = None
    """Accept only clients with a certificate of this authority (mutual TLS)."""
    access_log: bool = False
    """Log each request in a line: method, model, code, rows, times in milliseconds, caller, id, token's name."""
    slow_request_ms: int = Field(default=1000, ge=0, le=3_600_000)
    """Log requests that take longer than this from their queue to their answer, in milliseconds; 0: none."""
    otlp_endpoint: str = ""
    """Send traces of the calls that their callers sampled to this collector, OTLP over gRPC: http://HOST:4317, or
    https:// for TLS. Needs the extra 'otel'."""
    log_format: Literal["auto", "console", "json"] = "auto"
    """console for people, json a line for machines; auto: console on a terminal, else json."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level that is logged."""

    given: frozenset[str] = frozenset()

    @classmethod
    def read(cls, arguments: Sequence[str] | None = None, prog: str = PROG) -> Self:
        """From the command line and the environment; raises SettingsError. ``--help`` names the program ``prog``."""
        command_line = sys.argv[1:] if arguments is None else arguments
        return read_options(cls, PARSERS, "CONVSERVE_", command_line, os.environ, prog)

    def __post_init__(self) -> None:
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            raise ValueError("TLS needs both --tls-certificate-file and --tls-key-file")
        if self.tls_client_ca_file is not None and self.tls_certificate_file is None:
            raise ValueError("--tls-client-ca-file needs --tls-certificate-file and --tls-key-file")
        if self.protect_health and self.tokens_file is None:
            raise ValueError("--protect-health needs --tokens-file")
        if self.ready_when == "first" and self.workers:
            raise ValueError("--ready-when first needs --workers 0: workers open all models, and agree on them, first")
        if self.http_port and self.http_port == self.port:
            raise ValueError("--http-port must be another than --port: a port speaks gRPC or HTTP")
        if self.max_queue_rows < self.max_batch_rows:
            raise ValueError("--max-queue-rows must be at least --max-batch-rows, or a full request never fits")

    @property
    def provider_options(self) -> dict[str, dict[str, Any]]:
        """What was set of the execution providers' own options, by provider and option."""
        given: dict[str, dict[str, Any]] = {}
        for name in sorted(self.given):
            provider, _, option = name.partition("_")
            if provider in PROVIDERS:
                given.setdefault(provider, {})[option] = getattr(self, name)
        return given

    @property
    def batching_by_model(self) -> dict[str, Batching]:
        """What was set for single models by name, and under "" for all others."""
        return _batching_by_model(self.batching)

    @property
    def named_models(self) -> dict[str, Path]:
        """The paths of models by the names that were set for them."""
        return _named_models(self.model)

    @property
    def models_folder(self) -> Path | None:
        """The folder of models; None where only named ones are served."""
        if self.model and "models_dir" not in self.given:
            return None
        return BUNDLED_MODELS if self.serves_bundled_models else self.models_dir

    @property
    def serves_bundled_models(self) -> bool:
        """Whether nothing names models, and there is no folder of them here, so that the package's own are served."""
        return not self.given & {"models_dir", "model"} and not self.models_dir.exists() and BUNDLED_MODELS.is_dir()

    @property
    def version_policies(self) -> VersionPolicies:
        """Which versions are served."""
        return parse_policies(self.version_policy if "version_policy" in self.given else "")

    @property
    def default_versions(self) -> dict[str, int]:
        """The versions that answer where none is asked for, by model."""
        return parse_pins(self.default_version)
