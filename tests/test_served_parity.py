"""The served function is the trained one: over the wire, in any company, over the whole test sets."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

from service.client.dataset import READERS, Dataset
from service.cpu import usable_cores
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
    options.intra_op_num_threads = usable_cores()
    return ort.InferenceSession(models_dir / model / "1" / "model.onnx", options)


@pytest.fixture(scope="module")
def test_set(session: ort.InferenceSession, data_dir: Path) -> Dataset:
    """The whole test set of the model's data set."""
    dataset = session.get_modelmeta().custom_metadata_map["convserve.dataset"]
    return READERS[dataset](data_dir)


def test_every_bundled_network_has_its_file() -> None:
    assert set(SHIPPED) <= set(MODELS)


def logits_of(session: ort.InferenceSession, pictures: Any) -> Any:
    return session.run(["logits"], {"images": pictures})[0]


@pytest.mark.parametrize("rows", [1, 7, 64, 256])
def test_served_logits_are_the_sessions_bit_for_bit(
    server: ServerProcess, model: str, session: ort.InferenceSession, test_set: Dataset, rows: int
) -> None:
    pictures = test_set.pictures[:rows]
    outputs = infer(server, infer_request(model, images=pictures))
    expected = session.run(["logits", "probabilities"], {"images": pictures})
    assert outputs["logits"].tobytes() == expected[0].tobytes()
    assert outputs["probabilities"].tobytes() == expected[1].tobytes()


def test_an_answer_does_not_depend_on_who_shares_the_run(
    server: ServerProcess, model: str, session: ort.InferenceSession, test_set: Dataset
) -> None:
    """Requests of one to nine rows from sixteen threads at once, so that runs are made up at random."""
    generator = np.random.default_rng(0)
    starts = generator.integers(0, 9_000, 120)
    sizes = generator.integers(1, 10, 120)
    with server.channel() as channel, ThreadPoolExecutor(16) as pool:

        def ask(start: int, size: int) -> Any:
            request = infer_request(model, images=test_set.pictures[start : start + size])
            return infer(server, request, channel)["logits"]

        answers = list(pool.map(ask, starts, sizes))
    for start, size, answer in zip(starts, sizes, answers, strict=True):
        alone = logits_of(session, test_set.pictures[start : start + size])
        assert np.abs(answer - alone).max() <= COMPANY_TOLERANCE


def test_the_whole_test_set_gets_the_answers_that_the_report_counts_and_those_of_pytorch(
    model: str, test_set: Dataset, models_dir: Path
) -> None:
    """Each transport answers every second picture, so both must serve the trained function for the figures to be right.

    PyTorch gets one in five, of both, and may only differ where its two best classes are next to equal.
    A variant in another precision has no network of its own in PyTorch: it states its model's figure.
    """
    logits, probabilities = (np.full((10_000, 10), np.nan) for _ in range(2))
    for first, transport in enumerate(("native", "grpcio")):
        with ServerProcess(models_dir, "--models", model, transport=transport) as server, server.channel() as channel:
            for rows in np.split(np.arange(first, 10_000, 2), 50):
                outputs = infer(server, infer_request(model, images=test_set.pictures[rows]), channel)
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
    by_pytorch = outputs_of_torch(classifier_of(model), torch.from_numpy(test_set.pictures[::5].copy())).logits
    ordered = np.sort(by_pytorch, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 1e-3
    assert clear.mean() > 0.99
    assert (logits[::5].argmax(1) == by_pytorch.argmax(1))[clear].all()
