"""From a trained network to a file that has been proved, put in place in one step.

Every check runs on the temporary file; whatever fails, or is interrupted, leaves the folder as it was.
"""

from pathlib import Path

import torch

from training import onnx_file, parity
from training.data import LABELS, Dataset
from training.evaluate import OnnxFile, answers_of_onnx, answers_of_torch, count_correct
from training.files import replacing
from training.networks import NETWORKS, Classifier, Preprocess, count_parameters
from training.recipes import Recipe
from training.train import Training

PROBE_IMAGES = 8
PARITY_IMAGES = 128


def publish(recipe: Recipe, training: Training, data: Dataset, path: Path) -> tuple[dict[str, str], parity.Differences]:
    """Write a trained network to `path`, after proof that NumPy, PyTorch and ONNX Runtime agree about it.

    Gives the file's metadata and the largest differences. Raises ParityError, with `path` as it was before, when any
    check fails.
    """
    name = recipe.network
    classifier = Classifier(Preprocess(recipe.mean, recipe.std), training.network)
    images = data.test_images.cpu()
    few = images[:PROBE_IMAGES]
    with torch.inference_mode():
        probe = onnx_file.probe(few.numpy(), classifier.eval()(few)[0].numpy())
    facts = {
        "format": onnx_file.FORMAT,
        "labels": onnx_file.to_json(LABELS[recipe.dataset]),
        "dataset": recipe.dataset,
        "network": name,
        "architecture": NETWORKS[name].architecture,
        "parameters": str(count_parameters(training.network)),
        "precision": "fp32",
        "recipe": onnx_file.to_json(recipe.numbers()),
        "seed": str(recipe.seed),
        "epoch_losses": onnx_file.to_json([round(epoch["loss"], 4) for epoch in training.history]),
        "versions": onnx_file.versions(),
        "commit": onnx_file.commit(),
        "probe": probe,
    }
    graph = onnx_file.build(classifier, (images.shape[1], images.shape[2], images.shape[3]))
    with replacing(path) as temporary:
        onnx_file.write(graph, facts, temporary)
        file = OnnxFile(temporary)
        differences = parity.compare(name, classifier, file, images[:PARITY_IMAGES].numpy())
        by_torch, by_onnx = answers_of_torch(classifier, images), answers_of_onnx(file, images)
        parity.check_answers(name, classifier, images.numpy(), by_torch, by_onnx)
        correct = count_correct(by_onnx, data.test_labels)
        facts |= {
            "test_correct": str(correct),
            "test_images": str(len(images)),
            "test_accuracy": f"{correct / len(images):.4f}",
        }
        onnx_file.write(graph, facts, temporary)
        parity.check_probe(name, probe, OnnxFile(temporary))
    return facts, differences
