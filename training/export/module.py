"""Any PyTorch classifier becomes a model file: checked, proved, measured on real images, and reported, in one call.

The steps are those for our own networks, with PyTorch in float64 in the place of the NumPy reference.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from .. import onnx_file
from ..calibration import fit_temperature
from ..data import Dataset
from ..errors import ModuleError, ParityError
from ..evaluate import OnnxFile, Outputs, outputs_of_onnx
from ..files import SMALL_FILES, check_place, replacing
from ..networks import Classifier, Preprocess, count_parameters
from ..preprocessing import Preprocessing, resize_of
from ..report.write import write as write_report
from . import labelled_images, module_proof, parity, publish
from .arguments import NAME
from .labelled_images import LEAST_HELD, LabelledImages

Precision = Literal["fp32", "int8", "fp16"]

# Both sides of powers of two, and one.
BATCHES = (1, 2, 5, 8)
PROOF_IMAGES = 8
# More weights than this lie in a file of their own: protobuf ends at 2 GiB, and copies what it holds.
LARGEST_INSIDE = 2**29
# What other precisions may be made from: ONNX Runtime's quantiser holds several copies.
LARGEST_VARIED = 2**30
DATASET = "own"
RESERVED = {
    *("name", "format", "sha256", "labels", "temperature", "probe", "preprocessing", "precision", "parameters"),
    *("test_accuracy", "test_images", "test_correct", "calibration_error", "fp32_test_correct", "agreement"),
    *("variant_of", "batching", "history", "recipe", "seed", "normalization", "reference"),
}


@dataclass(frozen=True)
class Request:
    """What is exported besides the network: one of these for each call."""

    path: Path
    """The model's folder, whose name is the model's."""
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    test: Any = None
    temperature: float | Literal["fit"] = "fit"
    precision: tuple[str, ...] = ("fp32",)
    facts: Mapping[str, Any] = field(default_factory=dict)
    external_data: bool | None = None
    """True if weights lie in a file beside the model; None: where they are large."""

    def __post_init__(self) -> None:
        """Raise ModuleError for what cannot be."""
        if not NAME.fullmatch(self.path.name):
            raise ModuleError(
                f"{str(self.path)!r} cannot be a model's folder: its name may have up to 64 letters, digits, '.', '_' "
                f"and '-', beginning with a letter or digit"
            )
        if len(self.labels) < 2 or not all(isinstance(label, str) and label for label in self.labels):
            raise ModuleError(f"labels are {self.labels!r:.60}; a list of at least two texts is expected, one a class")
        unknown = [one for one in self.precision if one not in ("fp32", "int8", "fp16")]
        if unknown:
            raise ModuleError(f"precision {unknown[0]!r} is none of fp32, int8, fp16")
        reserved = sorted(RESERVED & self.facts.keys())
        if reserved:
            raise ModuleError(f"the fact {reserved[0]!r} is written by the export itself; give it another name")
        if self.temperature != "fit" and not (isinstance(self.temperature, (int, float)) and self.temperature > 0):
            raise ModuleError(f"temperature is {self.temperature!r}; 'fit' or a number above 0 is expected")
        if "int8" in self.precision and self.test is None:
            raise ModuleError("int8 is fitted to real images, and measured on others; give them by test")
        if "fp16" in self.precision and self.test is None:
            raise ModuleError("fp16 is measured on real images; give them by test")

    @property
    def name(self) -> str:
        """The model's name."""
        return self.path.name

    @property
    def file(self) -> Path:
        """The place of the float32 file."""
        return self.path / "1" / "model.onnx"

    @property
    def variants(self) -> tuple[Literal["int8", "fp16"], ...]:
        """Precisions that are made from the float32 file."""
        return tuple(one for one in ("int8", "fp16") if one in self.precision)


@dataclass(frozen=True)
class Measured:
    """Real images: what is counted, and what is held out for temperature and int8."""

    tested: LabelledImages | None = None
    held: LabelledImages | None = None


def export_module(  # noqa: PLR0913 -- a front door whose keywords users read in its signature
    module: nn.Module,
    path: str | Path,
    *,
    labels: Sequence[str],
    size: tuple[int, int] | int,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    crop: float | None = None,
    resize: int | tuple[int, int] | None = None,
    interpolation: str = "bilinear",
    colors: str = "RGB",
    polarity: str = "normal",
    test: Any = None,
    temperature: float | Literal["fit"] = "fit",
    precision: Sequence[str] = ("fp32",),
    facts: Mapping[str, Any] | None = None,
    external_data: bool | None = None,
    console: Console | None = None,
) -> Path:
    """Write a classifier to `path`/1/model.onnx, after proof; gives that file.

    The module takes normalised float32 images [batch, channels, height, width] and gives logits [batch, classes], or
    their softmax. `mean` and `std` are of pixels from 0 to 1. Images are resized to `resize`, or to `size` / `crop`, by
    `interpolation`, and their centre is cropped, as torchvision and timm do it. `test` are images with classes
    (`labelled_images.load`): half of them, or a folder's `val`, are held out to fit the temperature and int8, and the
    others are counted. `facts` go into the file's metadata. Raises TrainingError, with everything as it was.
    """
    height, width = (size, size) if isinstance(size, int) else size
    preprocessing = Preprocessing(
        (height, width),
        tuple(mean),
        tuple(std),
        resize_of((height, width), crop) if resize is None else resize,
        interpolation,
        colors,
        polarity,
    )
    module_proof.check_mode(module)
    facts = {"network": type(module).__name__, **(facts or {})}
    request = Request(
        Path(path), tuple(labels), preprocessing, test, temperature, tuple(precision), facts, external_data
    )
    return export(module, request, console or Console(quiet=True))


def export(module: nn.Module, request: Request, console: Console) -> Path:
    """Do what `export_module` does for a request."""
    measured = measure_request(request, console)
    preprocess = Preprocess(request.preprocessing.mean, request.preprocessing.std)
    images = proof_images(request.preprocessing.shape, measured.tested)
    proved = module_proof.prove(module, preprocess, images, len(request.labels))
    if proved.had_softmax:
        console.print(f"{request.name}: the module ends in a softmax; its logarithm is exported as the logits")
    network = proved.network
    temperature = find_temperature(
        request, measured, lambda held: outputs(Classifier(preprocess, network), held), console
    )
    classifier = Classifier(preprocess, network, temperature)
    graph = _build(classifier, request.preprocessing.shape)
    if _producer(graph, "logits") == "Sigmoid":
        raise ModuleError(module_proof.SIGMOID)
    metadata = describe(request, temperature) | {
        "parameters": str(count_parameters(network)),
        "architecture": str(request.facts.get("architecture", f"PyTorch module {type(module).__name__}")),
        "reference": proved.reference,
        "probe": probe_of(images, proved.float32_logits, proved.tolerance),
    }
    reference = Reference(images.numpy(), proved.logits, proved.tolerance)
    expected = None if measured.tested is None else _first(measured.tested)
    if expected is not None:
        by_torch = outputs(classifier, expected.images)
        reference = Reference(expected.images.numpy(), by_torch.astype(np.float64), proved.tolerance, reference)
    return finish(request, graph, metadata, reference, measured, console)


@dataclass(frozen=True)
class Reference:
    """What a file is compared with: logits [N, classes] that another program gives for images [N, H, W, C]."""

    images: NDArray[np.uint8]
    logits: NDArray[np.float64]
    tolerance: float
    more: "Reference | None" = None

    def check(self, name: str, file: OnnxFile, temperature: float) -> float:
        """Run the images at several batch sizes; gives the largest difference, and raises ParityError."""
        largest = 0.0 if self.more is None else self.more.check(name, file, temperature)
        for batch in (*BATCHES, len(self.images)):
            rows = self.images[:batch]
            try:
                logits, probabilities = file.run(rows)
            except Exception as error:  # ONNX Runtime's exceptions share no base class
                raise ParityError(
                    f"{name} has the number of images fixed inside, and cannot run {len(rows)} of them "
                    f"({first_line(error)}); write or export it for any number"
                ) from error
            difference = float(np.abs(logits - self.logits[:batch]).max())
            if not difference <= self.tolerance:
                raise ParityError(
                    f"{name}: ONNX Runtime's logits differ from the reference by {difference:.3g} in batches of "
                    f"{len(rows)}, {self.tolerance:.3g} is allowed; the file was not put in place"
                )
            parity.check_probabilities(name, Outputs(logits, probabilities), temperature)
            largest = max(largest, difference)
        return largest


def finish(
    request: Request,
    graph: onnx.ModelProto,
    metadata: dict[str, str],
    reference: Reference,
    measured: Measured,
    console: Console,
) -> Path:
    """Write, prove and measure the file of a request, then its variants and reports."""
    size = onnx_file.weight_bytes(graph)
    if request.variants and size > LARGEST_VARIED:
        raise ModuleError(
            f"{request.name} has {size / 2**30:.1f} GiB of weights, and {request.variants[0]} is made of at most "
            f"{LARGEST_VARIED / 2**30:g} GiB; leave it out"
        )
    check_place(request.path, size + SMALL_FILES, "--models-dir, or by path from Python")
    external = size > LARGEST_INSIDE if request.external_data is None else request.external_data
    temperature = float(metadata["temperature"])
    with replacing(request.file) as temporary:
        before = set(request.file.parent.glob("weights-*.bin"))
        try:
            if external:
                onnx_file.move_weights(graph, request.file.parent)
            onnx_file.write(graph, metadata, temporary)
            file = open_file(temporary, request.name)
            difference = reference.check(request.name, file, temperature)
            if measured.tested is not None:
                found = outputs_of_onnx(file, measured.tested.images)
                metadata |= publish.measured_metadata(found, measured.tested.labels)
                onnx_file.write(graph, metadata, temporary)
            parity.check_probe(request.name, metadata["probe"], OnnxFile(temporary))
        except BaseException:
            for path in set(request.file.parent.glob("weights-*.bin")) - before:
                path.unlink()
            raise
    for path in before - {request.file.parent / name for name in onnx_file.external_files(graph)}:
        path.unlink()
    console.print(
        f"{request.name}: {request.file}, proved against {metadata['reference']} to {difference:.1e}"
        + _accuracy(metadata),
        soft_wrap=True,
    )
    _variants(request, measured, console)
    return request.file


def _accuracy(metadata: Mapping[str, str]) -> str:
    if "test_correct" not in metadata:
        return "; no accuracy and no report, for want of test images"
    return f"; {metadata['test_correct']} of {metadata['test_images']} test images are right"


def _variants(request: Request, measured: Measured, console: Console) -> None:
    """Make the other precisions, and all reports, where there are real images."""
    if measured.tested is None:
        return
    report_data = _dataset(request, measured)
    held = measured.held or LabelledImages(report_data.train_images, report_data.train_labels)
    data = replace(report_data, train_images=held.images, train_labels=held.labels)
    write_report(request.file, report_data)
    for precision in request.variants:
        path = request.path.with_name(f"{request.name}-{precision}") / "1" / "model.onnx"
        try:
            metadata = publish.publish_variant(precision, data, request.file, path)
        except (ParityError, ModuleError):
            raise
        except Exception as error:  # of quantiser and ONNX Runtime, whose exceptions share no base class
            with suppress(AttributeError):
                error.add_note(f"making {precision} of {request.name}")
            raise ModuleError(
                f"{request.name} cannot be made {precision} ({first_line(error)}); leave {precision} out, the float32 "
                f"file is in place"
            ) from error
        console.print(f"{metadata['name']}: {path}{_accuracy(metadata)}", soft_wrap=True)
        write_report(path, report_data)


def _dataset(request: Request, measured: Measured) -> Dataset:
    """Give the images as a data set without images to train; those on which the temperature was fitted validate."""
    tested = measured.tested
    assert tested is not None  # noqa: S101 -- for mypy: its caller has looked
    none = tested.take(torch.arange(0))
    held = (measured.held if request.temperature == "fit" else None) or none
    return Dataset(
        str(request.facts.get("dataset", DATASET)),
        request.labels,
        none.images,
        none.labels,
        held.images,
        held.labels,
        tested.images,
        tested.labels,
    )


def measure_request(request: Request, console: Console) -> Measured:
    """Read the real images of a request, and hold out what temperature and int8 are fitted to."""
    if request.test is None:
        return Measured()
    tested, held = labelled_images.load(request.test, request.labels, request.preprocessing, console)
    if held is None and (request.temperature == "fit" or request.variants):
        if len(tested) >= 2 * LEAST_HELD or request.variants:
            held, tested = tested.halves()
        if len(tested) == 0 or (held is not None and len(held) < 2):
            raise ModuleError(f"test has {len(tested)} images, and half of them are held out; give at least four")
    return Measured(tested, held)


def find_temperature(request: Request, measured: Measured, logits_of: Any, console: Console) -> float:
    """Give the temperature that was asked for, or fit it on what is held out; 1 where that is too little."""
    if request.temperature != "fit":
        return float(request.temperature)
    if measured.held is None or len(measured.held) < LEAST_HELD:
        if measured.tested is not None:
            console.print(
                f"{request.name}: temperature 1, for fewer than {LEAST_HELD} images can be held out to fit it",
                soft_wrap=True,
            )
        return 1.0
    return fit_temperature(logits_of(measured.held.images), measured.held.labels.numpy())


def describe(request: Request, temperature: float) -> dict[str, str]:
    """Give the metadata that a request tells."""
    rule = request.preprocessing
    facts = {key: value if isinstance(value, str) else onnx_file.to_json(value) for key, value in request.facts.items()}
    return {
        "dataset": DATASET,
        "command": "training.export.export_module",
        **facts,
        "name": request.name,
        "labels": onnx_file.to_json(request.labels),
        "precision": "fp32",
        "history": "[]",
        "temperature": f"{temperature:g}",
        "normalization": onnx_file.to_json({"mean": rule.mean, "std": rule.std}),
        "versions": onnx_file.versions(),
        "commit": onnx_file.commit(),
        **({"preprocessing": onnx_file.to_json(rule.facts())} if rule.facts() else {}),
    }


def proof_images(shape: tuple[int, int, int], tested: LabelledImages | None) -> torch.Tensor:
    """Give real images where there are some, and drawn ones for the rest: noise over soft shapes."""
    real = torch.empty((0, *shape), dtype=torch.uint8) if tested is None else tested.images[:PROOF_IMAGES]
    draw = torch.Generator().manual_seed(0)
    count, (height, width, channels) = PROOF_IMAGES - len(real), shape
    coarse = torch.rand((count, channels, 4, 4), generator=draw) * 255
    soft = nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    noise = torch.rand((count, channels, height, width), generator=draw) * 60 - 30
    drawn = (soft + noise).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return torch.cat([real, drawn])


def probe_of(images: torch.Tensor, logits: NDArray[np.float32], tolerance: float) -> str:
    """Give the probe: as many of the images as fit, two at least."""
    count = max(2, min(len(images), publish.PROBE_BYTES // images[0].numel()))
    return onnx_file.probe(images[:count].numpy(), logits[:count], tolerance)


def outputs(classifier: Classifier, images: torch.Tensor) -> NDArray[np.float32]:
    """Give PyTorch's logits for images, in batches that fit into memory."""
    with torch.no_grad():
        return torch.cat([classifier.eval()(part)[0] for part in torch.split(images, PROOF_IMAGES)]).numpy()


def open_file(path: Path, name: str) -> OnnxFile:
    """Open a file with ONNX Runtime; raises ModuleError with its reason."""
    try:
        return OnnxFile(path)
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise ModuleError(
            f"ONNX Runtime {onnxruntime.__version__} cannot open the file of {name}: {first_line(error)}"
        ) from error


def _first(tested: LabelledImages) -> LabelledImages:
    return tested.take(torch.arange(min(len(tested), parity.BATCHES[-1])))


def _build(classifier: Classifier, shape: tuple[int, int, int]) -> onnx.ModelProto:
    try:
        return onnx_file.build(classifier, shape)
    except Exception as error:  # the exporter passes on whatever a module raises
        raise ModuleError(
            f"PyTorch cannot export the module ({type(error).__name__}: {first_line(error)}); if it branches "
            f"on values or on the number of images, write it without"
        ) from error


def _producer(graph: onnx.ModelProto, name: str) -> str:
    """Name the operator that gives a tensor, through those that only pass it on."""
    nodes = {output: node for node in graph.graph.node for output in node.output}
    while name in nodes and nodes[name].op_type in ("Identity", "Reshape", "Squeeze", "Flatten"):
        name = nodes[name].input[0]
    return nodes[name].op_type if name in nodes else ""


def first_line(error: Exception) -> str:
    """Give what is said first in an error, without ONNX Runtime's codes."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", lines[0])[:300] if lines else type(error).__name__
