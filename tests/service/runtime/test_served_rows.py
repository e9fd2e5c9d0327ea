"""A property: whatever else is asked at the same time, each request gets what it gets alone."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from random import Random

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from service.batching.batch import TensorMap
from service.batching.request import Request
from service.runtime.endpoint import Endpoint, EndpointOpener, ServingOptions
from service.runtime.model_control import ControlOptions, open_models
from service.runtime.model_folder import ModelFolder
from service.runtime.model_loader import ModelLoader
from service.runtime.providers import choose
from service.runtime.repository import Repository
from tests import onnx_models
from tests.service.runtime.graphs import FLOAT, node, normal

CHAINS, REQUESTS = 50, 200
"""10,000 answers."""
CALLERS = 8
WAIT_S = 60
TOLERANCE = 1e-4
"""Of the largest value: rounding in another order. A neighbour's rows are off by as much as values are large."""

Step = Callable[[str, str], list[onnx.NodeProto]]
WEIGHTS = {
    "W": normal(4, 4),
    "bias": normal(4, seed=1),
    "first": np.array([0]),
    "second": np.array([1]),
    "zero": np.array(0),
    "one": np.array(1),
    "ones": np.ones(4, np.float32),
    "zeros": np.zeros(4, np.float32),
    "little": np.array(0.25, np.float32),
    "pads": np.array([1, 0, 0, 0]),
    "last": np.array([-1]),
    "start": np.array([-(2**31)]),
    "columns": np.array([3, 0, 2, 1]),
}


def plain(kind: str, *more: str, **attributes: object) -> Step:
    """One operator, of the last value and weights."""
    return lambda x, y: [node(kind, [x, *more], y, **attributes)]


def reduced(reduce: str, combine: str, axis: str) -> Step:
    """The last value combined with what it is reduced to."""
    return lambda x, y: [node(reduce, [x, axis], y + "r", keepdims=1), node(combine, [x, y + "r"], y)]


def attended(x: str, y: str) -> list[onnx.NodeProto]:
    """Softmax(x x') x."""
    return [
        node("Transpose", [x], y + "t"),
        node("MatMul", [x, y + "t"], y + "s"),
        node("Softmax", [y + "s"], y + "p"),
        node("MatMul", [y + "p", x], y),
    ]


def divided(x: str, y: str) -> list[onnx.NodeProto]:
    """By the number of rows."""
    return [
        node("Shape", [x], y + "s", start=0, end=1),
        node("Cast", [y + "s"], y + "f", to=FLOAT),
        node("Div", [x, y + "f"], y),
    ]


def shifted(x: str, y: str) -> list[onnx.NodeProto]:
    """By one row."""
    return [
        node("Pad", [x, "pads"], y + "p"),
        node("Shape", [x], y + "s", start=0, end=1),
        node("Slice", [y + "p", "first", y + "s", "first"], y),
    ]


def in_order(x: str, y: str) -> list[onnx.NodeProto]:
    """Each column in order."""
    return [
        node("Shape", [x], y + "s", start=0, end=1),
        helper.make_node("TopK", [x, y + "s"], [y, y + "places"], axis=0),
    ]


ROW_WISE: dict[str, Step] = {
    "product": plain("MatMul", "W"),
    "bias": plain("Add", "bias"),
    "relu": plain("Relu"),
    "tanh": plain("Tanh"),
    "softmax": plain("Softmax", axis=-1),
    "sum along the row": plain("CumSum", "one"),
    "row norm": plain("LayerNormalization", "ones", "zeros"),
    "columns": plain("Gather", "columns", axis=1),
    "row mean": reduced("ReduceMean", "Sub", "second"),
    "row maximum": reduced("ReduceMax", "Add", "second"),
}
ROW_MIXING: dict[str, Step] = {
    "running sum": plain("CumSum", "zero"),
    "softmax over rows": plain("Softmax", axis=0),
    "mean row": reduced("ReduceMean", "Sub", "first"),
    "largest row": reduced("ReduceMax", "Add", "first"),
    "attention": attended,
    "count": divided,
    "shift": shifted,
    "order": in_order,
    "reverse": plain("Slice", "last", "start", "first", "last"),
}


def chain(folder: Path, number: int) -> set[str]:
    """Writes a chain of up to five random operators; the names of those that mix rows."""
    random = Random(number)  # noqa: S311 - the same chains each time
    steps = random.choices(list(ROW_WISE), k=random.randint(1, 4))
    mixing = set(random.choices(list(ROW_MIXING), k=number % 2))
    names = random.sample(steps + list(mixing), len(steps) + len(mixing))
    values = ["x", *(f"v{place}" for place in range(len(names) - 1)), "y"]
    nodes = [
        made
        for place, name in enumerate(names)
        for made in (ROW_WISE | ROW_MIXING)[name](values[place], values[place + 1])
    ]
    weights = [numpy_helper.from_array(array, name) for name, array in WEIGHTS.items()]
    value = onnx_models.value
    onnx_models.save(
        folder, f"chain-{number}", nodes, [value("x", FLOAT, ["n", 4])], [value("y", FLOAT, ["n", 4])], weights
    )
    return mixing


def ask(endpoint: Endpoint, x: NDArray[np.float32]) -> "Future[TensorMap | Exception]":
    """Queues a request as a transport does."""
    answer: Future[TensorMap | Exception] = Future()
    rows = len(x) if endpoint.session.spec.batches else 1
    endpoint.batcher.submit(Request({"x": x}, rows, answer.set_result, signature=(4,)))
    endpoint.batcher.dispatch()
    return answer


def count_differences(folder: Path, endpoint: Endpoint) -> int:
    """Asks from many threads at once; how many answers are not those of the request alone."""
    bare = ort.InferenceSession(folder / endpoint.name / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    requests = [
        random.normal(size=(1 + number % 5, 4)).astype(np.float32) * (1 + number % 7) for number in range(REQUESTS)
    ]
    with ThreadPoolExecutor(CALLERS) as callers:
        answers = list(callers.map(lambda x: ask(endpoint, x), requests))
    wrong = 0
    for x, answer in zip(requests, answers, strict=True):
        result, (expected,) = answer.result(WAIT_S), bare.run(["y"], {"x": x})
        if isinstance(result, Exception):
            raise result
        got = result["y"]
        scale = max(1.0, float(np.abs(expected).max()))
        wrong += got.shape != expected.shape or not float(np.abs(got - expected).max()) <= TOLERANCE * scale
    return wrong


@pytest.fixture(scope="module")
def mixing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, set[str]]]:
    """A folder of chains, and what mixes rows in each."""
    folder = tmp_path_factory.mktemp("chains")
    return folder, {f"chain-{number}": chain(folder, number) for number in range(CHAINS)}


@pytest.fixture(scope="module")
def repository(mixing: tuple[Path, dict[str, set[str]]]) -> Iterator[Repository]:
    """These, opened; requests wait a little for company."""
    options = ServingOptions(
        threads=2, max_batch_rows=64, max_queue_rows=4096, max_queue_delay_s=2e-3, max_inline_s=1e-3
    )
    repository = Repository()
    loader = ModelLoader(ModelFolder(mixing[0]), EndpointOpener(choose(["cpu"]), options), repository)
    with open_models(loader, repository, ControlOptions()):
        yield repository


def test_answers_are_those_alone(mixing: tuple[Path, dict[str, set[str]]], repository: Repository) -> None:
    """None of 10,000 answers under concurrent load differs from a run of that request by itself."""
    wrong = {endpoint.name: count_differences(mixing[0], endpoint) for endpoint in repository}
    assert len(wrong) == CHAINS
    assert {name: count for name, count in wrong.items() if count} == {}


def test_chains_without_mixing_are_batched(mixing: tuple[Path, dict[str, set[str]]], repository: Repository) -> None:
    """Each chain of row-wise operators is batched, and its requests did share runs."""
    for endpoint in repository:
        if not mixing[1][endpoint.name]:
            assert endpoint.session.spec.unbatched_reason == ""
            assert endpoint.batcher.statistics.runs < REQUESTS
