"""Wheel and source distribution: what is in them."""

import csv
import io
import tarfile
import zipfile
from pathlib import Path

import service
from tests.package.conftest import Distributions
from tests.servers import ROOT

MOST_MIB = 16
"""Of a wheel: most of it are models."""
MODELS = {
    "cifar10-cnn",
    "cifar10-cnn-int8",
    "cifar10-int8",
    "cifar10-small",
    "cifar10-small-int8",
    "cifar10-tiny",
    "mnist",
    "mnist-int8",
    "mnist-small",
    "mnist-small-int8",
    "mnist-tiny",
}


def contents(wheel: Path) -> dict[str, str]:
    """The files of a wheel, with their hashes, as it tells them itself; but for that list."""
    with zipfile.ZipFile(wheel) as file:
        (record,) = (name for name in file.namelist() if name.endswith(".dist-info/RECORD"))
        rows = list(csv.reader(io.StringIO(file.read(record).decode())))
    return {name: digest for name, digest, _ in rows if digest}


def modules(package: str) -> set[str]:
    """The modules of a package of the checkout, by their paths in a wheel."""
    return {f"convserve/{path.relative_to(ROOT)}" for path in (ROOT / package).rglob("*.py")}


def test_wheels_hold_one_package(distributions: Distributions) -> None:
    """Nothing but convserve comes to the top of site-packages, and it has each module of service and training."""
    files = contents(distributions.wheel)
    assert {name.partition("/")[0] for name in files} == {"convserve", f"convserve-{service.__version__}.dist-info"}
    ours = {f"convserve/{path.name}" for path in (ROOT / "convserve").glob("*.py")}
    expected = ours | modules("service") | modules("training")
    assert {name for name in files if name.endswith(".py")} == expected


def test_wheels_hold_what_modules_read(distributions: Distributions) -> None:
    """Types, protos and what the server reads beside its modules are there."""
    files = set(contents(distributions.wheel))
    assert {
        "convserve/py.typed",
        "convserve/proto/image_classifier.proto",
        "convserve/proto/open_inference.proto",
        "convserve/service/pb/image_classifier_pb2.pyi",
        "convserve/service/pb/open_inference.binpb",
    } <= files
    beside = {
        f"convserve/{path.relative_to(ROOT)}"
        for path in (ROOT / "service").rglob("*.*")
        if path.suffix not in {".py", ".pyc"}
    }
    assert beside <= files


def test_wheels_hold_small_models(distributions: Distributions) -> None:
    """Each model is there with its page and report, and the whole stays small."""
    files = contents(distributions.wheel)
    models = {name.split("/")[2] for name in files if name.startswith("convserve/models/")}
    assert models == MODELS
    for model in models:
        assert {f"convserve/models/{model}/1/{name}" for name in ("model.onnx", "report.json", "README.md")} <= set(
            files
        )
    assert distributions.wheel.stat().st_size < MOST_MIB * 2**20


def test_sdists_make_the_same_wheel(distributions: Distributions) -> None:
    """The sdist holds no links, and a wheel made from it is the wheel made from the checkout, byte for byte."""
    with tarfile.open(distributions.sdist) as file:
        assert all(member.isfile() or member.isdir() for member in file.getmembers())
    made, direct = contents(distributions.wheel_of_sdist), contents(distributions.wheel)
    assert made == direct
