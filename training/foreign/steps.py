"""The steps of `--module`, `--timm`, `--torchvision` and `--onnx`: from a command line to a file in place."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from ..errors import ModuleError
from ..export.arguments import Arguments
from ..export.module import Request, export
from ..export.tables import path_of
from ..preprocessing import Preprocessing, resize_of
from . import sources, weights
from .arguments import Foreign
from .onnx_graph import export_onnx


def run(wanted: Foreign, args: Arguments, console: Console) -> Path:
    """Export what was asked for; raises TrainingError, with everything as it was."""
    path = path_of(args.models_dir, wanted.name)
    if path.exists() and not args.force:
        raise ModuleError(f"{path} is in place; --force replaces it, and --name gives another")
    labels = () if wanted.labels is None else sources.read_labels(wanted.labels)
    if wanted.door == "onnx":
        request = _request(wanted, args, labels, {})
        return export_onnx(Path(wanted.source), request, console, output=wanted.output)
    source = source_of(wanted, labels)
    if not source.labels and not labels:
        raise ModuleError(f"--{wanted.door} {wanted.source} has no labels of its own; give them by --labels")
    request = _request(wanted, args, labels or source.labels, source.declared)
    if wanted.weights is not None:
        weights.load_into(source.module, wanted.weights)
    return export(source.module, request, console)


def source_of(wanted: Foreign, labels: tuple[str, ...]) -> sources.Source:
    """Give the network that is named, for these labels; none: as its library has it."""
    if wanted.door == "module":
        return sources.of_module(wanted.source)
    size = None if wanted.size is None else wanted.size[0]
    if wanted.size is not None and wanted.size[0] != wanted.size[-1]:
        raise ModuleError(f"--size {wanted.size} is no square, which --{wanted.door} needs; --module takes any")
    return sources.LIBRARIES[wanted.door](wanted.source, labels, pretrained=wanted.pretrained, size=size)


def rule_of(wanted: Foreign, declared: Mapping[str, Any]) -> Preprocessing:
    """Give how images are prepared: as a library declares it, where the command line says nothing."""
    told: dict[str, Any] = dict(declared)
    for key in ("mean", "std", "interpolation"):
        if getattr(wanted, key) is not None:
            told[key] = getattr(wanted, key)
    if wanted.size is not None:
        told["size"] = (wanted.size[0], wanted.size[-1])
    if wanted.resize is not None:
        told["resize"] = wanted.resize[0] if len(wanted.resize) == 1 else wanted.resize
    elif wanted.crop is not None:
        told["resize"] = resize_of(told["size"], wanted.crop)
    told = {key: tuple(value) if isinstance(value, list) else value for key, value in told.items()}
    return Preprocessing(**told, colors=wanted.colors, polarity=wanted.polarity)


def _request(wanted: Foreign, args: Arguments, labels: tuple[str, ...], declared: Mapping[str, Any]) -> Request:
    facts = {"network": wanted.source, "command": args.command} | dict(wanted.facts)
    if wanted.door == "onnx":
        del facts["network"]
    return Request(
        args.models_dir / wanted.name,
        labels,
        rule_of(wanted, declared),
        wanted.test,
        wanted.temperature,
        args.precision,
        facts,
    )
