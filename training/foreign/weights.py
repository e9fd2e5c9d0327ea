"""Weights from a file, without running what a pickle may hold."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import ModuleError

# Under these keys checkpoints keep their weights beside other things, the first that is there.
KEYS = ("state_dict", "model_state_dict", "model", "weights")
# What torch.nn.DataParallel, torch.compile and Lightning put before each name.
PREFIXES = ("module.", "_orig_mod.", "model.")
NAMED = 3


def load_into(module: nn.Module, path: Path) -> None:
    """Load weights into a module: each of its tensors, and no others; raises ModuleError."""
    module.load_state_dict(fitting(module, path))


def fitting(module: nn.Module, path: Path, but: str = "\n") -> dict[str, torch.Tensor]:
    """Read a module's tensors, each of them and no others; those whose names begin with `but` are left out.

    Raises ModuleError.
    """
    found = read(path)
    expected = module.state_dict()
    for prefix in PREFIXES:
        if not expected.keys() & found.keys() and all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): value for name, value in found.items()}
    found, expected = ({key: v for key, v in one.items() if not key.startswith(but)} for one in (found, expected))
    missing, strange = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    other = [name for name in expected if name in found and expected[name].shape != found[name].shape]
    for what, names in (("lacks", missing), ("has besides", strange)):
        if names:
            raise ModuleError(
                f"{path} {what} {len(names)} of the network's {len(expected)} tensors ({_some(names)}); it belongs to "
                f"another network"
            )
    if other:
        shapes = f"{other[0]} is {list(found[other[0]].shape)} there and {list(expected[other[0]].shape)} here"
        raise ModuleError(
            f"{path} does not fit the network: {shapes}; the number of labels, or the network, is another"
        )
    return found


def read(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors in a file of torch.save or of safetensors, by name; raises ModuleError."""
    if not path.is_file():
        raise ModuleError(f"there is no file {path.absolute()}; name one of torch.save or safetensors")
    found = _safetensors(path) if path.suffix == ".safetensors" else _pickle(path)
    for key in KEYS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
            break
    if not isinstance(found, Mapping) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise ModuleError(f"{path} holds no tensors by name; save the network's state_dict()")
    return dict(found)


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError  # here, as few files need it
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise ModuleError(f"{path} cannot be read as safetensors: {error}") from error


def _pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"(?i)unsupported global:?(?: GLOBAL)? ([\w.]+)", str(error))
        if wanted is None:
            raise ModuleError(
                f"{path} cannot be read as weights, for it is no file of torch.save, or holds more than tensors; save "
                f"the network's state_dict(), or use safetensors"
            ) from error
        raise ModuleError(
            f"{path} is a pickle that wants to run {wanted[1]}, and only tensors are loaded, for a pickle may run any "
            f"program; save the network's state_dict(), or use safetensors"
        ) from error
    except Exception as error:  # on broken files it raises a dozen different types
        raise ModuleError(f"{path} cannot be read as weights ({type(error).__name__}: {error})") from error


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
