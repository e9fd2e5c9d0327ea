"""The commands of ``convserve``: where each is, and what it needs. Imports nothing of them."""

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any, NamedTuple


class Extra(NamedTuple):
    """An extra of the package, and what it brings."""

    name: str
    brings: str
    modules: tuple[str, ...]


RUNTIME = Extra("cpu", "ONNX Runtime", ("onnxruntime",))
PULL = Extra("pull", "clients of registries and buckets", ("oras", "obstore", "model_signing"))
TORCH = Extra("train", "PyTorch and ONNX", ("torch", "torchvision", "onnx", "onnxscript"))
TRAINING = (TORCH, RUNTIME)
CLIENT = "service.client.__main__"


class NotInstalled(Exception):
    """What a command needs is not there: the sentence says what, and which extras bring it."""


class Command(NamedTuple):
    """One command; its module has ``main(arguments, prog)`` and ``make_parser(prog)``."""

    module: str
    about: str
    needs: tuple[Extra, ...] = ()


GROUPS: dict[str, dict[str, Command]] = {
    "serve models": {
        "serve": Command("service.__main__", "serve a folder of models; the default command", (RUNTIME,)),
        "health": Command("service.health_check", "ask whether a server is serving, for probes"),
        "tokens": Command("service.tokens", "make bearer tokens for a server"),
        "front": Command("service.front", "write Envoy's configuration before several servers"),
        "tune": Command("service.tune", "measure how a model runs best on this machine's CPU", (RUNTIME,)),
    },
    "ask a server": {
        "classify": Command(CLIENT, "tell what images show"),
        "list": Command(CLIENT, "list the models"),
        "infer": Command(CLIENT, "run a model on tensors"),
        "dataset": Command(CLIENT, "measure a model on a real test set"),
        "top": Command(CLIENT, "show what the models do now"),
    },
    "get and make models": {
        "pull": Command("service.pull.__main__", "bring a model from a registry, a bucket or a folder", (PULL,)),
        "export": Command("training.export", "train a network, or take one of yours, and prove its file", TRAINING),
        "inspect": Command("training.inspect", "show what a model file says of itself, and prove it", TRAINING),
    },
    "for your shell": {
        "completion": Command("completion", "write what completes commands and options: bash, zsh or fish"),
    },
}
"""By what they are for, in the order of ``--help``."""
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}


def run(name: str, arguments: Sequence[str]) -> int:
    """Runs a command, and returns its exit code; raises NotInstalled."""
    command = COMMANDS[name]
    lacking = [] if {"-h", "--help"} & set(arguments) else missing(command)
    if lacking:
        raise NotInstalled(f"{name} needs {_remedy(lacking)}")
    within = command.module == CLIENT  # whose command line begins with the command's name
    line, prog = ([name, *arguments], "convserve") if within else (arguments, f"convserve {name}")
    code: int = load(command).main(line, prog)
    return code


def missing(command: Command) -> list[Extra]:
    """The extras that the command needs, and that are not installed, or not whole."""
    return [extra for extra in command.needs if not all(map(importlib.util.find_spec, extra.modules))]


def load(command: Command) -> Any:
    """The command's module."""
    return importlib.import_module(f".{command.module}", __package__)


def _remedy(lacking: Sequence[Extra]) -> str:
    other = "; for NVIDIA's GPUs, gpu instead of cpu" if RUNTIME in lacking else ""
    brought = ", and ".join(extra.brings for extra in lacking)
    return f"{brought}: pip install 'convserve[{','.join(extra.name for extra in lacking)}]'{other}"
