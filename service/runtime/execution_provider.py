"""Execution providers as data: what each is called, what can be set, and what it does to numbers.

One frozen dataclass a provider. Its fields are the options that a user may set, ``--NAME-FIELD``, whose words and
bounds stand in settings.py; all else are facts. To add a provider is to add a class here, its name to PROVIDERS, and
its options to the settings.
"""

import contextlib
import importlib.util
import io
import json
import platform
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnxruntime as ort

from ..errors import ProviderUnavailable


@dataclass(frozen=True)
class Arithmetic:
    """The numbers that products are made of; sums are float32 in all of them."""

    name: str
    tolerance: float
    """How far it may take a logit from float32's, as a share of the largest logit of the probe."""


FP32 = Arithmetic("fp32", 0.0)
# Both factors of every product rounded to 10 bits (TF32) and 7 (BF16) in PyTorch, for the five float32 models here: the
# largest deviation in 1,000 test images was 5.6e-4 and 5.6e-3 of their largest logit, in the probes 4.3e-4 and 5.0e-3.
# Four times that leaves room for other models; wrong weights and wrong graphs are off by far more.
TF32 = Arithmetic("tf32", 2e-3)
BF16 = Arithmetic("bf16", 2e-2)

HARDWARE = {"cpu": ort.OrtHardwareDeviceType.CPU, "gpu": ort.OrtHardwareDeviceType.GPU}


@dataclass(frozen=True)
class Provider(ABC):
    """One execution provider of ONNX Runtime, and its options as they were set."""

    name: ClassVar[str]
    onnx: ClassVar[str]
    """ONNX Runtime's name for it."""
    extra: ClassVar[str]
    """The extra of this package that installs it."""
    blamed: ClassVar[tuple[str, ...]] = ()
    """Words by which an error of ONNX Runtime's is the provider's and not the file's."""
    preferred_batch_size: ClassVar[int | None] = None
    """Rows worth joining from several requests, whatever they cost; None: as many as a run may have."""
    buckets: ClassVar[tuple[int, ...]] = ()
    """The only numbers of rows that it runs, where it makes a plan for each: others are padded to the next."""

    @abstractmethod
    def attach(self, options: ort.SessionOptions, *, threads: int, fixed: bool) -> None:
        """Adds it to the options of a session, whose shapes may be ``fixed``; raises where it does not run here."""

    @property
    def arithmetic(self) -> Arithmetic:
        """What it computes float32 files in."""
        return FP32

    @property
    def placement(self) -> tuple[str, int]:
        """Where its buckets have their buffers: ONNX Runtime's name of the device, and its number."""
        return "cpu", 0

    @property
    def instance_count(self) -> int:
        """How many runs of one model it does at a time in buckets."""
        return 1

    @property
    def captures(self) -> bool:
        """Whether its buckets are recorded once and replayed, which must happen in one and the same thread."""
        return False

    def unavailable(self, reason: object) -> ProviderUnavailable:
        """The error that says that it was asked for and cannot be had."""
        return ProviderUnavailable(
            f"the execution provider '{self.name}' was asked for and does not run here: {str(reason).rstrip('.')}. "
            f"Install it with the extra '{self.extra}', or name another with --providers"
        )


@dataclass(frozen=True)
class Cpu(Provider):
    """ONNX Runtime's own kernels."""

    spin_us: int = 20
    """How long the threads of a session look for work between the steps of a run before they sleep, in microseconds."""
    instances: int = 0
    """Runs of one model at a time, by one thread each; 0: as was measured, or by rule (service/runtime/tuning.py)."""
    one_thread_rows: int = -1
    """Up to so many, rows are run by one thread although there are more; -1: as was measured, or by rule."""

    name: ClassVar[str] = "cpu"
    onnx: ClassVar[str] = "CPUExecutionProvider"
    extra: ClassVar[str] = "cpu"
    # Beyond 64 rows the activations outgrow the caches: at 256, mnist-tiny with one thread and cifar10-lenet with
    # two lose a third of their images/s, and the larger models gain nothing (benchmarks/README.md, Findings).
    preferred_batch_size: ClassVar[int | None] = 64

    def attach(self, options: ort.SessionOptions, *, threads: int, fixed: bool) -> None:  # noqa: ARG002 - see base
        """ONNX Runtime always has it at the end of the list."""
        options.intra_op_num_threads = threads
        # Waking a thread takes longer than most steps: a lone cifar10-cnn request took 440 µs without spinning and 372
        # with it, mnist-deep's 569 and 453. After the run they sleep at once: other threads may want the cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(self.spin_us > 0)))
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(self.spin_us))
        options.add_session_config_entry("session.force_spinning_stop", "1")


@dataclass(frozen=True)
class Openvino(Provider):
    """Intel's OpenVINO, as a plug-in of ONNX Runtime's."""

    device: str = "cpu"
    """``cpu`` or ``gpu``, both Intel's."""
    precision: str = "fp32"
    """``fp32`` or ``bf16``. OpenVINO's own default is bf16 where the CPU has AMX: no float32 probe accepts that."""

    name: ClassVar[str] = "openvino"
    onnx: ClassVar[str] = "OpenVINOExecutionProvider"
    extra: ClassVar[str] = "openvino"
    blamed: ClassVar[tuple[str, ...]] = ("OpenVINO", "openvino")

    @property
    def arithmetic(self) -> Arithmetic:
        """As the precision that was set."""
        return BF16 if self.precision == "bf16" else FP32

    def attach(self, options: ort.SessionOptions, *, threads: int, fixed: bool) -> None:  # noqa: ARG002 - see base
        """Registers the plug-in once, and takes its devices of the kind that was set."""
        if importlib.util.find_spec("onnxruntime_ep_openvino") is None:
            raise self.unavailable("the package onnxruntime-ep-openvino is not installed")
        import onnxruntime_ep_openvino as plugin

        if self.onnx not in {device.ep_name for device in ort.get_ep_devices()}:
            ort.register_execution_provider_library("convserve_openvino", plugin.get_library_path())
        offered = [device for device in ort.get_ep_devices() if device.ep_name == self.onnx]
        chosen = [device for device in offered if device.device.type == HARDWARE[self.device]]
        if not chosen:
            raise self.unavailable(f"it offers no {self.device} on this {platform.machine()} machine")
        options.add_provider_for_devices(chosen, {"load_config": json.dumps(self.load_config(threads))})

    def load_config(self, threads: int) -> dict[str, dict[str, str]]:
        """OpenVINO's properties, by device."""
        properties = {"INFERENCE_PRECISION_HINT": "bf16" if self.precision == "bf16" else "f32"}
        if self.device == "cpu":
            # Streams are for runs side by side: there is one at a time, and it gets all threads.
            properties |= {"INFERENCE_NUM_THREADS": str(threads), "NUM_STREAMS": "1"}
        return {self.device.upper(): properties}


@dataclass(frozen=True)
class Cuda(Provider):
    """NVIDIA GPUs."""

    device: int = 0
    """Which GPU, as `nvidia-smi` numbers them."""
    memory_mib: int = 0
    """Most memory for each bucket of each instance of a model; 0: no limit."""
    tf32: bool = False
    """Whether tensor cores may be used, which round float32 factors to TF32. Without it, ONNX Runtime 1.31 keeps
    convolutions off them in float16 files too. It does use them where cuDNN has nothing else: the probe tells."""
    graphs: bool = False
    """Whether each bucket is recorded as a CUDA graph and replayed: one launch in the place of one for each kernel."""
    instances: int = 1
    """Runs of one model at a time."""

    name: ClassVar[str] = "cuda"
    onnx: ClassVar[str] = "CUDAExecutionProvider"
    extra: ClassVar[str] = "gpu"
    blamed: ClassVar[tuple[str, ...]] = ("CUDA", "CUBLAS", "CUDNN", "cublas", "cudnn")
    # ONNX Runtime's convolution keeps cuDNN's plan for the last shape only, and builds it anew whenever the shape
    # changes (onnxruntime/core/providers/cuda/nn/conv.cc, UpdateState): tens of milliseconds, where a run takes less
    # than one. So each bucket is a session of its own, which sees one shape. Up to 64 rows these models do not fill a
    # GPU, and rows of padding are nearly free; from there on, steps are of two.
    buckets: ClassVar[tuple[int, ...]] = (1, 4, 16, 64, 128, 256, 512, 1024)

    @property
    def arithmetic(self) -> Arithmetic:
        """As the switch for TF32 was set."""
        return TF32 if self.tf32 else FP32

    @property
    def placement(self) -> tuple[str, int]:
        """The GPU that was set."""
        return "cuda", self.device

    @property
    def instance_count(self) -> int:
        """As many as it has instances."""
        return self.instances

    @property
    def captures(self) -> bool:
        """As was set."""
        return self.graphs

    def attach(self, options: ort.SessionOptions, *, threads: int, fixed: bool) -> None:  # noqa: ARG002 - see base
        """Loads the CUDA and cuDNN wheels where they were installed as such, and appends the provider."""
        if self.onnx not in ort.get_available_providers():
            raise self.unavailable(f"the installed onnxruntime has only {', '.join(ort.get_available_providers())}")
        with contextlib.redirect_stdout(io.StringIO()) as missing:
            ort.preload_dlls()
        try:
            options.add_provider(self.onnx, self.onnx_options(fixed=fixed))
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            reasons = missing.getvalue().splitlines() or [str(error)]
            if not has_nvidia_device():
                reasons.insert(
                    0, "no NVIDIA device is to be seen, so the driver is missing, or was not passed into the container"
                )
            raise self.unavailable("; ".join(reasons[:2])) from error

    def onnx_options(self, *, fixed: bool) -> dict[str, str]:
        """As ONNX Runtime names them (https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html)."""
        options = {
            "device_id": str(self.device),
            "use_tf32": str(int(self.tf32)),
            # cuDNN's quick heuristics; DEFAULT would be its fallback, of which ONNX Runtime warns as extremely slow.
            "cudnn_conv_algo_search": "HEURISTIC",
            "arena_extend_strategy": "kSameAsRequested",  # the default doubles what it holds
            "use_ep_level_unified_stream": "1",  # one stream a session, whichever thread runs it
            "enable_cuda_graph": str(int(self.graphs and fixed)),
        }
        return options | ({"gpu_mem_limit": str(self.memory_mib * 2**20)} if self.memory_mib else {})


def has_nvidia_device() -> bool:
    """Whether the system shows one: Linux's own driver, or that of Windows below WSL."""
    return any(path.exists() for path in (Path("/dev/nvidiactl"), Path("/dev/dxg")))
