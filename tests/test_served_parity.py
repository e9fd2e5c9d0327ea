"""The served function is the trained one: over the wire, in any company, over the whole test sets."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

from service.client.dataset import TEST_SETS, Dataset
from tests.servers import ROOT, ServerProcess
from tests.training.report_check import check
from tests.training.samples import SHIPPED, classifier_of
from tests.training.trained import read
from tests.wire import infer, infer_request
from training.evaluate import outputs_of_torch
from training.onnx_file import read_metadata

MODELS = sorted(path.parts[-3] for path in (ROOT / "models").glob("*/1/model.onnx"))
COMPANY_TOLERANCE = 1e-5
"""How far a row's logits may move with its neighbours, in float32 and int8 alike. The rows of a run never mix, but
ONNX Runtime's matrix kernels may take other block sizes, and so another order of summation, for other numbers of rows.
Measured on AVX-512: none at all; float32 sums of the 2,048 products of the largest layer here leave 1e-5 of room."""


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def session(model: str, models_dir: Path) -> ort.InferenceSession:
    """A session made without any of our code, with the server's number of threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(models_dir / model / "1" / "model.onnx", options)


@pytest.fixture(scope="module")
def test_set(session: ort.InferenceSession, data_dir: Path) -> Dataset:
    """The whole test set of the model's data set."""
    dataset = session.get_modelmeta().custom_metadata_map["convserve.dataset"]
    return TEST_SETS[dataset].read(data_dir)


def requests(test_set: Dataset) -> list[Any]:
    """The first thousand images, in requests of 1 to 256 rows."""
    sizes = (1, 7, 64, 256, 256, 256, 160)
    return np.split(test_set.pictures[: sum(sizes)], np.cumsum(sizes)[:-1])


@pytest.fixture(scope="module")
def expected(session: ort.InferenceSession, test_set: Dataset) -> dict[str, Any]:
    """The session's results for the first thousand images."""
    names = ("logits", "probabilities")
    results = [session.run(names, {"images": images}) for images in requests(test_set)]
    return {name: np.concatenate([each[place] for each in results]) for place, name in enumerate(names)}


def test_every_bundled_network_has_its_file() -> None:
    """Each network that is shipped has a file that is served."""
    assert set(SHIPPED) <= set(MODELS)


def test_served_results_are_the_sessions(
    server: ServerProcess, model: str, expected: dict[str, Any], test_set: Dataset
) -> None:
    """For a thousand images, in requests of 1 to 256 rows, logits and probabilities are a session's bit for bit."""
    with server.channel() as channel:
        served = [infer(server, infer_request(model, images=images), channel) for images in requests(test_set)]
    for name, results in expected.items():
        assert np.concatenate([outputs[name] for outputs in served]).tobytes() == results.tobytes()


def test_results_do_not_depend_on_company(
    server: ServerProcess, model: str, expected: dict[str, Any], test_set: Dataset
) -> None:
    """A response does not depend on which requests share its run.

    Requests of one to nine rows come from sixteen threads at once, so that runs are made up at random.
    """
    generator = np.random.default_rng(0)
    starts = generator.integers(0, 990, 120)
    sizes = generator.integers(1, 10, 120)
    with server.channel() as channel, ThreadPoolExecutor(16) as pool:

        def ask(start: int, size: int) -> Any:
            request = infer_request(model, images=test_set.pictures[start : start + size])
            return infer(server, request, channel)["logits"]

        answers = list(pool.map(ask, starts, sizes))
    for start, size, answer in zip(starts, sizes, answers, strict=True):
        assert np.abs(answer - expected["logits"][start : start + size]).max() <= COMPANY_TOLERANCE


def test_whole_test_sets_score_as_reported(
    native_server: ServerProcess, model: str, test_set: Dataset, models_dir: Path
) -> None:
    """The results for the whole test set are those that the report counts, and those of PyTorch.

    PyTorch gets one image in ten, and may only differ where its two best classes are next to equal.
    A variant in another precision has no network of its own in PyTorch: it states its model's figure.
    """
    logits, probabilities = (np.full((10_000, 10), np.nan) for _ in range(2))
    with native_server.channel() as channel:
        for rows in np.split(np.arange(10_000), 50):
            outputs = infer(native_server, infer_request(model, images=test_set.pictures[rows]), channel)
            logits[rows], probabilities[rows] = outputs["logits"], outputs["probabilities"]
    path = models_dir / model / "1" / "model.onnx"
    told = read(path)
    assert (told["facts"]["name"], told["test"]["images"]) == (model, 10_000)
    assert told["image_shape"] == list(test_set.pictures.shape[1:])
    check(told, path, logits, probabilities, test_set.labels.astype(np.int64))
    assert f"**{told['test']['accuracy'] * 100:.2f} %**" in path.with_name("README.md").read_text(encoding="utf-8")
    if told["variant"] is not None:
        original = read_metadata(models_dir / told["facts"]["variant_of"] / "1" / "model.onnx")
        assert str(told["facts"]["fp32_test_correct"]) == original["test_correct"]
        return
    by_pytorch = outputs_of_torch(classifier_of(model), torch.from_numpy(test_set.pictures[::10].copy())).logits
    ordered = np.sort(by_pytorch, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 1e-3
    assert clear.mean() > 0.99
    assert (logits[::10].argmax(1) == by_pytorch.argmax(1))[clear].all()
