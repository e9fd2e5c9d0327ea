"""The command `infer`: tensors from .npy files, through a model, to a table, JSON or .npy files."""

import argparse
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .connection import environment_token
from .errors import UnusableTensor
from .sync import Client
from .tables import Output

_SHOWN_ELEMENTS = 6
"""Of an output, in a table."""


def infer(args: argparse.Namespace, output: Output) -> int:
    """Run a model on tensors; write its outputs, and those with a file into it."""
    inputs = {name: _read(Path(file)) for name, file in _once(args.input, "input")}
    wanted = dict(_once(args.output, "output"))
    with Client(args.address, timeout_s=args.timeout_s, tls=args.tls, token=environment_token()) as client:
        found = client.infer(args.model, inputs, outputs=list(wanted), version=args.version)
    for name, file in wanted.items():
        if file:
            _write(Path(file), found[name])
    if args.json:
        entries = {
            name: {
                "datatype": _datatype(array),
                "shape": list(array.shape),
                "file": wanted.get(name) or None,
                "data": None if wanted.get(name) else _finite(array.tolist()),
            }
            for name, array in found.items()
        }
        output.json({"model": args.model, "version": found.model_version, "outputs": entries})
        return 0
    output.table(
        ("output", "datatype", "shape", "elements"),
        [
            [(name, _datatype(array), str(list(array.shape)), wanted.get(name) or _elements(array))]
            for name, array in found.items()
        ],
        caption=f"{args.model}, version {found.model_version}",
    )
    return 0


def _once(pairs: Iterable[tuple[str, str]], what: str) -> list[tuple[str, str]]:
    names = [name for name, _ in pairs]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise UnusableTensor(f"{what} '{doubled[0]}' is given twice: name it once")
    return list(pairs)


def _read(path: Path) -> npt.NDArray[Any]:
    try:
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise UnusableTensor(f"'{path}' cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise UnusableTensor(f"'{path}' is no .npy file of numbers or text: write one with numpy.save") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise UnusableTensor(f"'{path}' is an .npz archive: a .npy file, which holds one array, is expected")
    return array


def _write(path: Path, array: npt.NDArray[Any]) -> None:
    try:
        with path.open("wb") as file:  # by name, numpy.save would add an ending
            np.save(file, array.astype(str) if array.dtype.hasobject else array, allow_pickle=False)
    except OSError as error:
        raise UnusableTensor(f"'{path}' cannot be written: {error.strerror}") from error


def _datatype(array: npt.NDArray[Any]) -> str:
    return "text" if array.dtype.hasobject else array.dtype.name


def _elements(array: npt.NDArray[Any]) -> str:
    flat = array.reshape(-1)
    shown = [f"{each:.6g}" if array.dtype.kind == "f" else str(each) for each in flat[:_SHOWN_ELEMENTS]]
    return " ".join(shown) + (" …" if flat.size > _SHOWN_ELEMENTS else "")


def _finite(data: Any) -> Any:
    """Give what JSON has no number for as a word: NaN, Infinity or -Infinity."""
    if isinstance(data, list):
        return [_finite(each) for each in data]
    if isinstance(data, float) and not math.isfinite(data):
        return "NaN" if math.isnan(data) else "Infinity" if data > 0 else "-Infinity"
    return data
