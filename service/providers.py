"""Execution providers as data: how each opens a session, and the proof that the session runs on it.

A list of providers is a demand, not a wish. The first named runs the model; the others named may
take the operators that it cannot. If one of them does not work here, nothing is opened.
"""

import importlib.util
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from service.errors import ModelRejected, ProviderUnavailable


@dataclass(frozen=True)
class Provider:
    """One execution provider of ONNX Runtime."""

    name: str
    onnx: str
    """ONNX Runtime's name for it."""
    extra: str
    """The extra of this package that installs it."""
    attach: Callable[[ort.SessionOptions, "Provider"], None]
    """Adds it to the options of a session to be opened; raises ProviderUnavailable."""
    join_rows: int | None = None
    """Most rows worth joining from several requests; None: as many as a run may have."""


def _attach_cpu(_options: ort.SessionOptions, _provider: Provider) -> None:
    """ONNX Runtime always has its CPU provider at the end of the list."""


def _attach_cuda(options: ort.SessionOptions, provider: Provider) -> None:
    if provider.onnx not in ort.get_available_providers():
        raise _unavailable(provider, f"the installed onnxruntime has only {', '.join(ort.get_available_providers())}")
    ort.preload_dlls()  # the CUDA and cuDNN wheels, where they were installed as such
    cuda = {
        "use_tf32": "0",  # TF32 keeps 10 bits of mantissa: logits leave the tolerance of fp32
        "cudnn_conv_algo_search": "HEURISTIC",  # EXHAUSTIVE searches anew for each batch size it meets
        "arena_extend_strategy": "kSameAsRequested",
    }
    options.add_provider(provider.onnx, cuda)


def _attach_openvino(options: ort.SessionOptions, provider: Provider) -> None:
    if importlib.util.find_spec("onnxruntime_ep_openvino") is None:
        raise _unavailable(provider, "the package onnxruntime-ep-openvino is not installed")
    import onnxruntime_ep_openvino as plugin

    if provider.onnx not in {device.ep_name for device in ort.get_ep_devices()}:
        ort.register_execution_provider_library("convserve_openvino", plugin.get_library_path())
    devices = [device for device in ort.get_ep_devices() if device.ep_name == provider.onnx]
    chosen = [device for device in devices if device.device.type == ort.OrtHardwareDeviceType.CPU]
    if not chosen:
        raise _unavailable(provider, f"it offers no device on this {platform.machine()} processor")
    # fp32 by default on AMX machines would silently mean bf16, which no fp32 probe accepts.
    options.add_provider_for_devices(chosen, {"load_config": '{"CPU": {"INFERENCE_PRECISION_HINT": "f32"}}'})


PROVIDERS: dict[str, Provider] = {
    provider.name: provider
    for provider in (
        Provider("cuda", "CUDAExecutionProvider", "gpu", _attach_cuda),
        Provider("openvino", "OpenVINOExecutionProvider", "openvino", _attach_openvino),
        # Beyond 64 rows the activations outgrow the caches: at 256, mnist-tiny with one thread and cifar10-lenet with
        # two lose a third of their images/s, and the larger models gain nothing (benchmarks/README.md, Findings).
        Provider("cpu", "CPUExecutionProvider", "cpu", _attach_cpu, join_rows=64),
    )
}


def choose(names: Sequence[str]) -> tuple[Provider, ...]:
    """The providers of these names; ``auto`` is CUDA where there is a device for it, else the CPU.

    Raises ProviderUnavailable for a name we do not know.
    """
    if list(names) == ["auto"]:
        names = ["cuda"] if _has_cuda() else ["cpu"]
    unknown = [name for name in names if name not in PROVIDERS]
    if unknown or not names:
        raise ProviderUnavailable(f"no execution provider {unknown or names}; there are auto, {', '.join(PROVIDERS)}")
    return tuple(PROVIDERS[name] for name in names)


def open_session(path: Path, providers: Sequence[Provider], threads: int) -> ort.InferenceSession:
    """A session for the file whose every node runs on one of these providers, and some on the first.

    ``threads`` compute one run on the CPU. Raises ProviderUnavailable or ModelRejected.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Idle worker threads of a session that spin take the cores that parse and answer requests.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if "cpu" not in {provider.name for provider in providers}:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    for provider in providers:
        _attach(provider, options)
    try:
        session = ort.InferenceSession(path, options)
    except Exception as error:
        # ONNX Runtime's exceptions share no base class; the file and the provider are both suspects.
        first_line = str(error).splitlines()[0] if str(error) else repr(error)
        if "CPU EP" in str(error) or any(
            provider.onnx in str(error) for provider in providers if provider.name != "cpu"
        ):
            raise _unavailable(providers[0], first_line) from error
        raise ModelRejected(f"ONNX Runtime cannot open it: {first_line}") from error
    _verify(session, providers)
    return session


def _attach(provider: Provider, options: ort.SessionOptions) -> None:
    try:
        provider.attach(options, provider)
    except ProviderUnavailable:
        raise
    except Exception as error:  # no driver, a library that cannot be loaded: ONNX Runtime's errors share no base class
        raise _unavailable(provider, str(error)) from error


def _verify(session: ort.InferenceSession, providers: Sequence[Provider]) -> None:
    """Raises ProviderUnavailable unless the session runs where it was told to."""
    missing = [provider for provider in providers if provider.onnx not in session.get_providers()]
    if missing:
        raise _unavailable(missing[0], f"ONNX Runtime opened the model on {', '.join(session.get_providers())} instead")
    assigned = {part.ep_name: len(part.get_nodes()) for part in session.get_provider_graph_assignment_info()}
    foreign = sorted(set(assigned) - {provider.onnx for provider in providers})
    if foreign or (assigned and not assigned.get(providers[0].onnx)):
        raise _unavailable(
            providers[0], f"ONNX Runtime gave the model's nodes to {', '.join(sorted(assigned))} instead"
        )


def _has_cuda() -> bool:
    return "CUDAExecutionProvider" in ort.get_available_providers() and any(
        path.exists() for path in (Path("/dev/nvidiactl"), Path("/dev/dxg"))
    )


def _unavailable(provider: Provider, reason: Any) -> ProviderUnavailable:
    return ProviderUnavailable(
        f"the execution provider '{provider.name}' was asked for and does not run here: {str(reason).rstrip('.')}. "
        f"Install it with the extra '{provider.extra}', or name another with --providers"
    )
