"""The commands of ``convserve``: where each is, and what it needs. Imports nothing of them."""

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any, NamedTuple

RUNTIME = ("onnxruntime",)
TRAINING = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime")
EXTRAS = {
    "onnxruntime": ("ONNX Runtime", "cpu"),
    "torch": ("PyTorch", "train"),
    "torchvision": ("torchvision", "train"),
    "onnx": ("ONNX", "train"),
    "onnxscript": ("ONNX Script", "train"),
}
"""What modules are called, and the extras that bring them."""
CLIENT = "service.client.__main__"


class NotInstalled(Exception):
    """What a command needs is not there: the sentence says what, and which extras bring it."""


class Command(NamedTuple):
    """One command; its module has ``main(arguments, prog)`` and ``make_parser(prog)``."""

    module: str
    about: str
    needs: tuple[str, ...] = ()
    """The modules that it needs besides those of every installation."""


GROUPS: dict[str, dict[str, Command]] = {
    "serve models": {
        "serve": Command("service.__main__", "serve a folder of models; the default command", RUNTIME),
        "health": Command("service.health_check", "ask whether a server is serving, for probes"),
        "tokens": Command("service.tokens", "make bearer tokens for a server"),
        "tune": Command("service.tune", "measure how a model runs best on this machine's CPU", RUNTIME),
    },
    "ask a server": {
        "classify": Command(CLIENT, "tell what images show"),
        "list": Command(CLIENT, "list the models"),
        "infer": Command(CLIENT, "run a model on tensors"),
        "dataset": Command(CLIENT, "measure a model on a real test set"),
        "top": Command(CLIENT, "show what the models do now"),
    },
    "make models": {
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


def missing(command: Command) -> list[str]:
    """What the command needs, and is not installed."""
    return [module for module in command.needs if importlib.util.find_spec(module) is None]


def load(command: Command) -> Any:
    """The command's module."""
    return importlib.import_module(f".{command.module}", __package__)


def _remedy(lacking: Sequence[str]) -> str:
    words = " and ".join(EXTRAS[module][0] for module in lacking)
    extras = ",".join(dict.fromkeys(EXTRAS[module][1] for module in lacking))
    other = "; for NVIDIA's GPUs, gpu instead of cpu" if "cpu" in extras else ""
    return f"{words}: pip install 'convserve[{extras}]'{other}"
