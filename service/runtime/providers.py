"""Choosing execution providers, opening sessions on them, and the proof that a session runs where it was told to.

A list of providers is a demand, not a wish. The first named runs the model; the others named may
take the operators that it cannot. If one of them does not work here, nothing is opened.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from ..errors import ModelRejected, ProviderUnavailable, StartError
from .execution_provider import Cpu, Cuda, Openvino, Provider, has_nvidia_device
from .model_file import ModelFile

# As each session's own, below: ONNX Runtime warns of a missing plug-in for each session on CUDA, which needs none.
ort.set_default_logger_severity(3)

PROVIDERS: dict[str, type[Provider]] = {provider.name: provider for provider in (Cuda, Openvino, Cpu)}


def choose(names: Sequence[str], options: Mapping[str, Mapping[str, Any]] | None = None) -> tuple[Provider, ...]:
    """The providers of these names; ``auto`` is CUDA where there is a device for it, else the CPU.

    ``options``: what was set, by provider and option; their values have been checked. Raises ProviderUnavailable for a
    name we do not know, StartError for an option of a provider that is not named.
    """
    wanted = list(names)
    if wanted == ["auto"]:
        wanted = ["cuda"] if _has_cuda() else ["cpu"]
    unknown = [name for name in wanted if name not in PROVIDERS]
    if unknown or not wanted:
        raise ProviderUnavailable(f"no execution provider {unknown or wanted}; there are auto, {', '.join(PROVIDERS)}")
    given = options or {}
    for provider in given:
        if provider not in wanted:
            option = f"{provider}_{next(iter(given[provider]))}"
            raise StartError(
                f"--{option.replace('_', '-')} (CONVSERVE_{option.upper()}) is an option of the execution provider "
                f"'{provider}', which is not in use: --providers is {','.join(names)}"
                f"{', which means ' + wanted[0] if wanted != list(names) else ''}. "
                f"Leave the option out, or name {provider} with --providers"
            )
    return tuple(PROVIDERS[name](**given.get(name, {})) for name in wanted)


def open_session(
    file: Path | ModelFile, providers: Sequence[Provider], threads: int, fixed: Mapping[str, int] | None = None
) -> ort.InferenceSession:
    """A session for the file whose every node runs on one of these providers, and some on the first.

    A path is read first. ``threads`` compute one run on the CPU. ``fixed``: lengths of free axes by name, where every
    run has the same shapes. Raises ProviderUnavailable or ModelRejected.
    """
    if isinstance(file, Path):
        file = ModelFile.read(file)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # only the CPU's provider has work for more
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if "cpu" not in {provider.name for provider in providers}:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    for name, length in (fixed or {}).items():
        options.add_free_dimension_override_by_name(name, length)
    for provider in providers:
        _attach(provider, options, threads, fixed=fixed is not None)
    try:
        session = file.open(options)
    except Exception as error:
        # ONNX Runtime's exceptions share no base class; the file and the provider are both suspects.
        text = str(error)
        first_line = text.splitlines()[0] if text else repr(error)
        if "graph capture" in text:
            raise ModelRejected(
                f"it cannot be recorded as a CUDA graph, start without --cuda-graphs: {text}"
            ) from error
        if "CPU EP" in text:  # session.disable_cpu_ep_fallback
            named = ",".join(provider.name for provider in providers)
            raise ModelRejected(
                f"'{named}' cannot run all of its operators; --providers {named},cpu would let the CPU run the others"
            ) from error
        if any(word in text for provider in providers for word in provider.blamed):
            raise providers[0].unavailable(first_line) from error
        raise ModelRejected(f"ONNX Runtime cannot open it: {first_line}") from error
    _verify(session, providers)
    return session


def _attach(provider: Provider, options: ort.SessionOptions, threads: int, *, fixed: bool) -> None:
    try:
        provider.attach(options, threads=threads, fixed=fixed)
    except ProviderUnavailable:
        raise
    except Exception as error:  # no driver, a library that cannot be loaded: ONNX Runtime's errors share no base class
        raise provider.unavailable(error) from error


def _verify(session: ort.InferenceSession, providers: Sequence[Provider]) -> None:
    """Raises ProviderUnavailable unless the session runs where it was told to."""
    missing = [provider for provider in providers if provider.onnx not in session.get_providers()]
    if missing:
        raise missing[0].unavailable(f"ONNX Runtime opened the model on {', '.join(session.get_providers())} instead")
    assigned = {part.ep_name: len(part.get_nodes()) for part in session.get_provider_graph_assignment_info()}
    foreign = sorted(set(assigned) - {provider.onnx for provider in providers})
    if foreign or (assigned and not assigned.get(providers[0].onnx)):
        raise providers[0].unavailable(f"ONNX Runtime gave the model's nodes to {', '.join(sorted(assigned))} instead")


def _has_cuda() -> bool:
    return Cuda.onnx in ort.get_available_providers() and has_nvidia_device()
