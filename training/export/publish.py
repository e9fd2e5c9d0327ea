"""From a trained network to a file that has been proved, put in place in one step.

Every check runs on the temporary file; whatever fails, or is interrupted, leaves the folder as it was.
"""

import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import onnx
import torch

from .. import onnx_file
from ..calibration import expected_calibration_error, fit_temperature
from ..data import SOURCES, Dataset
from ..evaluate import OnnxFile, Outputs, outputs_of_onnx, outputs_of_torch, rows_at_once
from ..files import replacing
from ..foreign.sources import network_of
from ..networks import Classifier, Preprocess, count_parameters, pool_last
from ..preprocessing import Preprocessing, rule_of
from ..quantize import halve, quantize
from ..recipes import Recipe
from ..reference import DESCRIPTIONS
from ..train import Training
from . import parity

PROBE_IMAGES, PROBE_BYTES = 8, 2**20
PARITY_IMAGES = 128
# Training images that int8 is fitted to, and others that tell the tolerance of a variant.
CALIBRATION_IMAGES = 5_000
MEASURED_IMAGES = 2_000
# Fewer of either where these are more bytes.
DRAWN_BYTES = 2**28


def publish(
    recipe: Recipe, training: Training, data: Dataset, path: Path, command: str = ""
) -> tuple[dict[str, str], parity.Differences]:
    """Write a trained network to `path`, after proof that NumPy, PyTorch and ONNX Runtime agree about it.

    The temperature of its probabilities is fitted on the validation images that the recipe holds out; without any it
    is 1. Gives the file's metadata and the largest differences. Raises ParityError, with `path` as it was before, when
    any check fails.
    """
    data = data.hold_out(recipe.validation)
    preprocess = Preprocess(recipe.mean, recipe.std)
    temperature = 1.0
    if recipe.validation:
        outputs = outputs_of_torch(Classifier(preprocess, training.network), data.validation_images)
        temperature = fit_temperature(outputs.logits, data.validation_labels.numpy())
    classifier = Classifier(preprocess, training.network, temperature)
    images = data.test_images
    probe = images[: max(2, min(PROBE_IMAGES, PROBE_BYTES // math.prod(images.shape[1:])))]
    metadata = _describe(recipe, training, data.labels, classifier, probe)
    if recipe.start or recipe.preprocessing:  # which no recipe of ours has
        metadata |= {"command": command} if command else {}
    exported = Classifier(preprocess, pool_last(training.network), temperature)
    graph = onnx_file.build(exported, network_of(recipe).shape)
    with replacing(path) as temporary:
        onnx_file.write(graph, metadata, temporary)
        file = OnnxFile(temporary)
        differences = parity.compare(recipe.network, classifier, file, parity_images(images).numpy())
        by_torch, by_onnx = outputs_of_torch(classifier, images), outputs_of_onnx(file, images)
        parity.check_predictions(recipe.network, classifier, images.numpy(), by_torch.predictions, by_onnx.predictions)
        metadata |= measured_metadata(by_onnx, data.test_labels)
        onnx_file.write(graph, metadata, temporary)
        parity.check_probe(recipe.name, metadata["probe"], OnnxFile(temporary))
    return metadata, differences


def _describe(
    recipe: Recipe, training: Training, labels: tuple[str, ...], classifier: Classifier, probe: torch.Tensor
) -> dict[str, str]:
    """Give the metadata of a file before anything is measured on it; `probe` are the images of its probe."""
    tolerance = parity.reference_logits(recipe.network, classifier, probe.numpy())[1]
    more = preprocessing(recipe.dataset, rule_of(recipe))
    if recipe.network not in DESCRIPTIONS:
        more["reference"] = "float64"
    return {
        "name": recipe.name,
        "labels": onnx_file.to_json(labels),
        "dataset": recipe.dataset,
        "network": recipe.network,
        "architecture": network_of(recipe).describe(len(labels)),
        "parameters": str(count_parameters(training.network)),
        "precision": "fp32",
        "recipe": onnx_file.to_json(recipe.to_dict()),
        "seed": str(recipe.seed),
        "history": onnx_file.to_json(training.rounded_history()),
        "trained_in": training.arithmetic,
        "trained_on": training.trained_on,
        "temperature": f"{classifier.temperature:g}",
        "versions": onnx_file.versions(),
        "commit": onnx_file.commit(),
        "probe": onnx_file.probe(probe.numpy(), outputs_of_torch(classifier, probe).logits, tolerance),
        **more,
    }


def preprocessing(dataset: str, rule: Preprocessing | None = None) -> dict[str, str]:
    """Give the metadata that say what a server does to images which are not of the network's form."""
    facts = {} if rule is None else rule.facts()
    if dataset in SOURCES:
        facts |= SOURCES[dataset].preprocessing
    return {"preprocessing": onnx_file.to_json(facts)} if facts else {}


def _quantize_best(
    graph: onnx.ModelProto, calibration: torch.Tensor, measured: torch.Tensor, fp32: OnnxFile
) -> onnx.ModelProto:
    """Give the int8 form whose logits for the `measured` images lie nearest to float32's, of both ways to fit it.

    Of cifar10-small's the root mean square of the error is 0.123 by averages of batches and 0.146 by extremes.
    """
    expected = outputs_of_onnx(fp32, measured).logits

    def error(candidate: onnx.ModelProto) -> float:
        with TemporaryDirectory(prefix="convserve-") as folder:
            path = Path(folder) / "int8.onnx"
            onnx.save(candidate, path)
            found = outputs_of_onnx(OnnxFile(path), measured).logits
        return float(((found - expected) ** 2).mean())

    return min((quantize(graph, calibration, smooth=smooth) for smooth in (False, True)), key=error)


def publish_variant(precision: Literal["int8", "fp16"], data: Dataset, fp32_path: Path, path: Path) -> dict[str, str]:
    """Make the file at `fp32_path`, which is proved, into one of another precision at `path`, after proof of its own.

    The tolerance of its probe comes from the logits of both files for training images that int8 was not fitted to
    (`parity.find_tolerance`); the probe's own logits stay those of PyTorch in float32. Test images have a part in the
    proof only. Gives the file's metadata. Raises ParityError, with `path` as it was before, when any check fails, and
    ModelFileError when it is not this program that made the float32 file.
    """
    metadata = onnx_file.read_metadata(fp32_path)
    data = data.hold_out(json.loads(metadata.get("recipe", "{}")).get("validation", 0))
    calibration, measured = draw_images(data.train_images)
    name, fp32 = f"{metadata['name']}-{precision}", OnnxFile(fp32_path)
    graph = onnx.load(fp32_path)
    graph = _quantize_best(graph, calibration, measured, fp32) if precision == "int8" else halve(graph)
    metadata |= {
        "name": name,
        "precision": precision,
        "variant_of": metadata["name"],
        "versions": onnx_file.versions(),
        "commit": onnx_file.commit(),
    }
    images, labels = data.test_images, data.test_labels
    with replacing(path) as temporary:
        onnx_file.write(graph, metadata, temporary)
        file = OnnxFile(temporary)
        tolerance = parity.find_tolerance(name, outputs_of_onnx(file, measured), outputs_of_onnx(fp32, measured))
        found, expected = outputs_of_onnx(file, images), outputs_of_onnx(fp32, images)
        parity.check_variant(name, found, expected, tolerance)
        parity.check_probabilities(name, found, float(metadata["temperature"]))
        parity.check_batches(name, file, parity_images(images).numpy(), tolerance)
        parity.check_accuracy(name, found.count_correct(labels), expected.count_correct(labels), len(images))
        metadata |= measured_metadata(found, labels) | {
            "fp32_test_correct": str(expected.count_correct(labels)),
            "agreement": f"{(found.predictions == expected.predictions).mean():.4f}",
            "probe": onnx_file.to_json(json.loads(metadata["probe"]) | {"tolerance": tolerance}),
        }
        if precision == "int8":
            metadata["probe"] = with_own_logits(metadata["probe"], temporary, measured)
        onnx_file.write(graph, metadata, temporary)
        parity.check_probe(name, metadata["probe"], OnnxFile(temporary))
    return metadata


def with_own_logits(probe: str, path: Path, measured: torch.Tensor) -> str:
    """Give the probe of the int8 file at `path` with its own logits, whose tolerance images [N, H, W, C] tell."""
    unoptimized, optimized = OnnxFile(path, optimized=False), OnnxFile(path)
    tolerance = parity.find_own_tolerance(outputs_of_onnx(unoptimized, measured), outputs_of_onnx(optimized, measured))
    logits, _ = unoptimized.run(onnx_file.read_tensor(json.loads(probe)["images"]))
    return onnx_file.add_own_logits(probe, logits, tolerance)


def draw_images(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw images that int8 is fitted to, and others that tell the tolerance: the same ones at each call."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    most = DRAWN_BYTES // math.prod(images.shape[1:])
    few = min(MEASURED_IMAGES, len(order) // 2, most)
    return images[order[few : few + min(CALIBRATION_IMAGES, most)]], images[order[:few]]


def parity_images(images: torch.Tensor) -> torch.Tensor:
    """Take the first `PARITY_IMAGES` of some images [N, H, W, C], over again from the first where they are fewer.

    Of large images fewer are taken.
    """
    count = max(PROBE_IMAGES, min(PARITY_IMAGES, 2 * rows_at_once(images, PARITY_IMAGES)))
    return images[torch.arange(count) % len(images)]


def measured_metadata(outputs: Outputs, labels: torch.Tensor) -> dict[str, str]:
    """Give the metadata that a file's outputs for the test images [N] make, once their labels [N] are known."""
    correct = outputs.count_correct(labels)
    return {
        "test_correct": str(correct),
        "test_images": str(len(labels)),
        "test_accuracy": f"{correct / len(labels):.4f}",
        "calibration_error": f"{expected_calibration_error(outputs.probabilities, labels.numpy()):.4f}",
    }
