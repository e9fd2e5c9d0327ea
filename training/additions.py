"""Networks and data sets of one's own, each in one Python file that `--use FILE` runs.

Such a file needs no change to this package: `network` adds layers and recipe together, `data_set` a class of labels,
loading and origin. A network that the NumPy reference does not know is proved against PyTorch in float64.
"""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from .errors import ModuleError, TrainingError
from .recipes import RECIPES, Recipe

if TYPE_CHECKING:  # else when a file is run: PyTorch takes seconds to import, and help is to come at once
    from torch import nn

    from .data import Source
    from .reference import Description

    Build = TypeVar("Build", bound=Callable[..., nn.Module])
    Kind = TypeVar("Kind", bound=type[Source])

_used: set[Path] = set()
_OTHER = "training" if __package__ != "training" else "convserve.training"
"""The name by which a checkout has this package a second time, with networks and data sets apart from these."""


def network(
    recipe: Recipe, architecture: str, shape: tuple[int, int, int], reference: "Description | None" = None
) -> "Callable[[Build], Build]":
    """Add the network that a function builds for a number of classes, and the recipe by which it is trained.

    `architecture` describes it in a line, which ends in 10 for a network of ten classes; `shape` is height, width
    and channels of its images; `reference` are its layers in the words of the NumPy reference, if it is to know them.
    """
    from . import networks
    from .reference import DESCRIPTIONS

    def add(build: "Build") -> "Build":
        if recipe.name in RECIPES or recipe.network in networks.NETWORKS:
            raise ModuleError(f"there is a network {recipe.name!r} already; give this one another name")
        networks.NETWORKS[recipe.network] = networks.Network(build, architecture, shape)
        RECIPES[recipe.name] = recipe
        if reference is not None:
            DESCRIPTIONS[recipe.network] = reference
        return build

    return add


def data_set(kind: "Kind") -> "Kind":
    """Add a data set, a subclass of `training.data.Source`."""
    from .data import SOURCES, TITLES

    source = kind()
    if source.name in TITLES:
        raise ModuleError(f"there is a data set {source.name!r} already; give this one another name")
    SOURCES[source.name], TITLES[source.name] = source, source.title
    return kind


def use(files: Sequence[Path]) -> None:
    """Run files that add something, each once in a process; raises ModuleError for one that cannot be run."""
    for file in files:
        path = file.resolve()
        if path in _used:
            continue
        if not path.is_file():
            raise ModuleError(f"--use {file}: there is no such file")
        name = f"convserve_added_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ModuleError(f"--use {file}: it is no Python file, whose name ends in .py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        before = set(sys.modules)
        try:
            spec.loader.exec_module(module)
        except TrainingError:
            raise
        except Exception as error:  # the file may raise anything
            raise ModuleError(f"--use {file} cannot be run ({type(error).__name__}: {error})") from error
        if f"{_OTHER}.additions" in sys.modules.keys() - before:
            raise ModuleError(
                f"--use {file} adds to {_OTHER}, and this is {__package__}: import {__package__}.additions there"
            )
        _used.add(path)
