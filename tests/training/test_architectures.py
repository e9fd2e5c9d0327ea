"""Networks of torchvision and timm, exported by every door, are served as their libraries run them.

Two of each library are tested by default; `make architectures` takes five, each by every door that it fits.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from service.client import Classification, Client
from tests.servers import ServerProcess
from training import onnx_file
from training.data import Dataset
from training.export import export_module, main

from .foreign import LABELS, Foreign, of_timm, of_torchvision, photos

ALL = "CONVSERVE_ARCHITECTURES" in os.environ
TORCHVISION = ("resnet18", "regnet_y_400mf", "mobilenet_v3_small", "efficientnet_b0", "shufflenet_v2_x1_0")
TIMM = ("convnext_atto", "resnet10t", "vit_tiny_patch16_224", "mobilenetv3_small_050", "regnetx_002")
# A door for each by default: what is tested is that each door prepares images as the library does.
DOORS = {
    "resnet18": ("torchvision",),
    "regnet_y_400mf": ("python",),
    "convnext_atto": ("module",),
    "resnet10t": ("timm",),
}
CASES = [
    (library, name, door)
    for library, names in (("torchvision", TORCHVISION), ("timm", TIMM))
    for name in names
    for door in ((library, "module", "python", "onnx") if ALL else DOORS.get(name, ()))
]
IDS = [f"{name}-{door}" for _, name, door in CASES]


def network(library: str, name: str) -> Foreign:
    return of_torchvision(name) if library == "torchvision" else of_timm(name)


def rule_of(foreign: Foreign, library: str) -> dict[str, Any]:
    """The library's preprocessing, as keywords of export_module."""
    if library == "torchvision":
        rule = foreign.transform
        kept = {"mean": rule.mean, "std": rule.std, "interpolation": rule.interpolation.value}  # type: ignore[attr-defined]
        return kept | {"resize": rule.resize_size[0]}  # type: ignore[attr-defined]
    resize, _, _, normalize = foreign.transform.transforms  # type: ignore[attr-defined]
    kept = {"mean": normalize.mean.tolist(), "std": normalize.std.tolist()}
    return kept | {"interpolation": resize.interpolation.value, "resize": resize.size}


def options_of(rule: dict[str, Any], size: int) -> list[str]:
    """The same as options of the command line."""
    given = ["--size", str(size), "--resize", str(rule["resize"]), "--interpolation", str(rule["interpolation"])]
    for key in ("mean", "std"):
        given += [f"--{key}", ",".join(map(str, rule[key]))]
    return given


def made_here() -> torch.nn.Module:
    """What --module names: a fresh network of the case at hand, whose weights come from a file."""
    library, name = os.environ["CONVSERVE_TEST_NETWORK"].split(":")
    torch.manual_seed(5)
    if library == "torchvision":
        from torchvision import models

        found: torch.nn.Module = models.get_model(name, weights=None, num_classes=len(LABELS))
        return found
    import timm

    sized = {"img_size": 64} if "vit" in name else {}
    fresh: torch.nn.Module = timm.create_model(name, pretrained=False, num_classes=len(LABELS), **sized)
    return fresh


def export(library: str, name: str, door: str, folder: Path) -> Path:
    """Export a network by one door; gives the models folder."""
    foreign = network(library, name)
    models, labels = folder / "models", folder / "labels.txt"
    labels.write_text("\n".join(LABELS), encoding="utf-8")
    rule = rule_of(foreign, library)
    if door == "python":
        export_module(foreign.module, models / name, labels=LABELS, size=(foreign.size, foreign.size), **rule)
        return models
    arguments = ["--models-dir", str(models), "--labels", str(labels), "--name", name]
    if door == "onnx":
        program = torch.onnx.export(
            foreign.module,
            (torch.zeros(2, 3, foreign.size, foreign.size),),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        program.save(folder / "theirs.onnx")
        arguments += ["--onnx", str(folder / "theirs.onnx"), *options_of(rule, foreign.size)]
    elif door == "module":
        torch.save({"state_dict": foreign.module.state_dict()}, folder / "best.pt")
        os.environ["CONVSERVE_TEST_NETWORK"] = f"{library}:{name}"
        arguments += ["--module", f"{__name__}:made_here", "--weights", str(folder / "best.pt")]
        arguments += options_of(rule, foreign.size)
    else:
        save_file(foreign.module.state_dict(), folder / "best.safetensors")
        arguments += [f"--{door}", name, "--weights", str(folder / "best.safetensors"), "--size", str(foreign.size)]
    assert main(arguments) == 0
    return models


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is downloaded: whoever asks is told that there is no network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CONVSERVE_TEST_NETWORK", "")


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize(("library", "name", "door"), CASES, ids=IDS)
def test_served_as_its_library_runs(library: str, name: str, door: str, cifar10: Dataset, tmp_path: Path) -> None:
    """Classify gives JPEG files the library's labels in its order, and its probabilities to 0.01."""
    foreign = network(library, name)
    files = photos(cifar10, tmp_path / "photos")
    expected = foreign.probabilities([Image.open(path).convert("RGB") for path in files])
    assert (expected.amax(0) - expected.amin(0)).max() > 0.1, "these images are all the same to the network"
    models = export(library, name, door, tmp_path)
    metadata = onnx_file.read_metadata(models / name / "1" / "model.onnx")
    assert metadata["reference"].startswith("float64" if door != "onnx" else "ONNX Runtime")
    with ServerProcess(models, "--require-probe") as server, Client(server.address) as client:
        results = client.classify(files, model=name, top_k=len(LABELS))
    for result, row in zip(results, expected, strict=True):
        assert isinstance(result, Classification)
        given = {best.label: best.probability for best in result.classes}
        assert [given[label] for label in LABELS] == pytest.approx(row.tolist(), abs=0.01)
        assert result.classes[0].label == LABELS[int(row.argmax())]
