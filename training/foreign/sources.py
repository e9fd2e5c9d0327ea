"""Networks by name: a function of one's own, timm's and torchvision's, with the preprocessing that these declare."""

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import ModuleError
from ..networks import NETWORKS, Network
from ..preprocessing import rule_of
from ..recipes import Recipe

IMAGENET_CLASSES = 1000
PRETRAINED = "--pretrained has the labels of ImageNet; leave out --labels, or give weights by --weights"


@dataclass(frozen=True)
class Source:
    """A network, in evaluation mode, and what its library declares."""

    module: nn.Module
    declared: Mapping[str, Any] = field(default_factory=dict)
    """Keywords of `export_module`."""
    labels: tuple[str, ...] = ()


def of_module(text: str) -> Source:
    """Give what `package:factory` names, called where it is a function; the current folder is looked in first."""
    package, colon, name = text.partition(":")
    if not colon or not package or not name:
        raise ModuleError(f"--module {text!r} is not of the form package:factory, such as my_nets:make_net")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(package), name)
    except (ImportError, AttributeError) as error:
        raise ModuleError(f"--module {text}: {error}") from error
    module = found if isinstance(found, nn.Module) else _called(found, text)
    return Source(module.eval())


def _called(factory: Callable[[], Any], text: str) -> nn.Module:
    if not callable(factory):
        raise ModuleError(f"--module {text} is a {type(factory).__name__}; a function that gives a module is expected")
    try:
        module = factory()
    except TypeError as error:
        raise ModuleError(f"--module {text} cannot be called without arguments: {error}") from error
    if not isinstance(module, nn.Module):
        raise ModuleError(f"--module {text} gives a {type(module).__name__}; a torch.nn.Module is expected")
    return module


def of_timm(name: str, labels: tuple[str, ...], *, pretrained: bool, size: int | None) -> Source:
    """Give timm's network for so many labels (none: ImageNet's), and its data configuration."""
    try:
        import timm
        from timm.data import ImageNetInfo, resolve_model_data_config
    except ImportError as error:
        raise ModuleError(f"timm is not installed ({error}); pip install 'convserve[train]' has it") from error
    if not timm.is_model(name):
        raise ModuleError(f"timm {timm.__version__} has no network {name!r}; timm.list_models() names all")
    if pretrained and labels:
        raise ModuleError(PRETRAINED)
    options: dict[str, Any] = {"num_classes": len(labels)} if labels else {}
    try:
        module = timm.create_model(name, pretrained=pretrained, **options, **({"img_size": size} if size else {}))
    except TypeError:  # convolutions take any size, and have no such option
        module = timm.create_model(name, pretrained=pretrained, **options)
    config = resolve_model_data_config(module)
    if config["crop_mode"] == "border":
        raise ModuleError(
            f"timm's {name} pads images to its size (crop_mode 'border'), which a model file cannot ask for"
        )
    sides = (size, size) if size else config["input_size"][1:]
    declared = {key: config[key] for key in ("mean", "std", "interpolation")} | {"size": sides}
    scaled = tuple(int(side / config["crop_pct"]) for side in sides)
    declared["resize"] = scaled[0] if config["crop_mode"] == "center" else scaled
    if config["crop_mode"] == "center" and sides[0] != sides[1]:
        raise ModuleError(f"timm's {name} takes {sides}, no square; give --size")
    if not labels and module.num_classes == IMAGENET_CLASSES:
        info = ImageNetInfo()
        labels = tuple(info.index_to_description(place) for place in range(info.num_classes()))
    return Source(module.eval(), declared, labels)


def of_torchvision(name: str, labels: tuple[str, ...], *, pretrained: bool, size: int | None) -> Source:
    """Give torchvision's network for so many labels (none: ImageNet's), and the transforms of its default weights."""
    from torchvision import models
    from torchvision.transforms import InterpolationMode

    known = models.list_models(module=models)
    if name not in known:
        raise ModuleError(f"torchvision has no classifier {name!r}; torchvision.models.list_models() names all")
    weights = models.get_model_weights(name).DEFAULT
    if pretrained and labels:
        raise ModuleError(PRETRAINED)
    options: dict[str, Any] = {"num_classes": len(labels)} if labels else {}
    if name in ("googlenet", "inception_v3"):
        options |= {"init_weights": True, "aux_logits": True}
    if size and name.startswith("vit_"):
        options["image_size"] = size
    module = models.get_model(name, weights=weights if pretrained else None, **({} if pretrained else options))
    rule = weights.transforms()
    (side,), (resize,) = rule.crop_size, rule.resize_size
    declared = {
        "size": (size, size) if size else (side, side),
        "resize": round(resize * size / side) if size else resize,
        "mean": rule.mean,
        "std": rule.std,
        "interpolation": InterpolationMode(rule.interpolation).value,
    }
    return Source(module.eval(), declared, labels or tuple(weights.meta["categories"]))


LIBRARIES = {"timm": of_timm, "torchvision": of_torchvision}


def network_of(recipe: Recipe) -> Network:
    """Give the network that a recipe trains: one of ours, or a library's, with fresh weights; raises ModuleError."""
    rule = rule_of(recipe)
    if rule is None:
        return NETWORKS[recipe.network]
    library, _, name = recipe.network.partition(":")

    def build(classes: int = 10) -> nn.Module:
        return LIBRARIES[library](name, ("",) * classes, pretrained=False, size=rule.size[0]).module

    return Network(build, f"{library}'s {name}, classes: 10", rule.shape)


def read_labels(path: Path) -> tuple[str, ...]:
    """Read labels, one a line; raises ModuleError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ModuleError(f"{path} cannot be read as labels, one a line: {error}") from error
    return tuple(line.strip() for line in lines if line.strip())
