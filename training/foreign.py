"""The steps of `--module`, `--timm`, `--torchvision` and `--onnx`: from a command line to a file in place."""

from pathlib import Path
from typing import Any

from rich.console import Console

from . import sources, weights
from .arguments import Arguments
from .errors import ModuleError
from .export_module import Request, export
from .foreign_arguments import Foreign
from .foreign_onnx import export_onnx
from .preprocessing import Preprocessing, resize_of
from .tables import path_of


def run(wanted: Foreign, args: Arguments, console: Console) -> Path:
    """Export what was asked for; raises TrainingError, with everything as it was."""
    path = path_of(args.models_dir, wanted.name)
    if path.exists() and not args.force:
        raise ModuleError(f"{path} is in place; --force replaces it, and --name gives another")
    labels = () if wanted.labels is None else sources.read_labels(wanted.labels)
    if wanted.door == "onnx":
        request = _request(wanted, args, labels, {})
        return export_onnx(Path(wanted.source), request, console, output=wanted.output)
    source = _source(wanted, labels)
    if not source.labels and not labels:
        raise ModuleError(f"--{wanted.door} {wanted.source} has no labels of its own; give them by --labels")
    request = _request(wanted, args, labels or source.labels, source.declared)
    if wanted.weights is not None:
        weights.load_into(source.module, wanted.weights)
    return export(source.module, request, console)


def _source(wanted: Foreign, labels: tuple[str, ...]) -> sources.Source:
    if wanted.door == "module":
        return sources.of_module(wanted.source)
    size = None if wanted.size is None else wanted.size[0]
    if wanted.size is not None and wanted.size[0] != wanted.size[-1]:
        raise ModuleError(f"--size {wanted.size} is no square, which --{wanted.door} needs; --module takes any")
    make = sources.of_timm if wanted.door == "timm" else sources.of_torchvision
    return make(wanted.source, labels, pretrained=wanted.pretrained, size=size)


def _request(wanted: Foreign, args: Arguments, labels: tuple[str, ...], declared: Any) -> Request:
    """Give the request, in which a library's declarations hold where the command line says nothing."""
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
    facts = {"network": wanted.source, "command": args.command} | dict(wanted.facts)
    if wanted.door == "onnx":
        del facts["network"]
    return Request(
        args.models_dir / wanted.name,
        labels,
        Preprocessing(**told, colors=wanted.colors, polarity=wanted.polarity),
        wanted.test,
        wanted.temperature,
        args.precision,
        facts,
    )
