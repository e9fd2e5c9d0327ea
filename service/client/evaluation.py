"""A whole test set through a server: accuracy, throughput, latency."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .aio import AsyncClient
from .class_folder import ImageFiles
from .dataset import CLASSES, TEST_SETS, Dataset
from .errors import ModelNotFound, RequestRefused, UnusableDataset
from .results import ImageError, ModelSummary


@dataclass(frozen=True)
class ClassScore:
    """How one class fared."""

    label: str
    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        """Share answered right; 0 where the class has no picture."""
        return self.correct / self.total if self.total else 0.0


@dataclass(frozen=True)
class Evaluation:
    """What was measured."""

    model: ModelSummary
    classes: tuple[ClassScore, ...]
    seconds: float
    """From the first call to the last answer."""
    latencies_ms: tuple[float, ...]
    """Of each call, as its caller saw it: building, sending, answering and reading the messages."""

    @property
    def correct(self) -> int:
        """Pictures whose most probable class is the true one."""
        return sum(each.correct for each in self.classes)

    @property
    def total(self) -> int:
        """Pictures asked about."""
        return sum(each.total for each in self.classes)

    @property
    def accuracy(self) -> float:
        """Share answered right."""
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy: E. B. Wilson, "Probable Inference" (1927)."""
        quantile = 1.959964
        squared = quantile**2 / self.total
        middle = self.accuracy + squared / 2
        reach = quantile * math.sqrt((self.accuracy * (1 - self.accuracy) + squared / 4) / self.total)
        return max(0.0, (middle - reach) / (1 + squared)), min(1.0, (middle + reach) / (1 + squared))

    @property
    def images_per_second(self) -> float:
        """Throughput of the whole run."""
        return self.total / self.seconds

    def latency_ms(self, percentile: float) -> float:
        """Latency of a call that ``percentile`` per cent of the calls do not exceed."""
        return float(np.percentile(self.latencies_ms, percentile))


OWN = "folder"
"""What a model that was trained on a folder of images says of its data set."""


def choose_model(models: Sequence[ModelSummary], *, dataset: str, name: str | None, target: str) -> ModelSummary:
    """Pick the model of that name, else the data set's namesake or its only model; of several versions the highest.

    For a folder of images the data set is `OWN`.

    No model is picked by its accuracy, which is of this very test set. Raises ModelNotFound where there is none or a
    name is needed, UnusableDataset where the model is for other data.
    """
    fitting = {model.name for model in models if model.dataset == dataset}
    if name is None and dataset not in fitting and len(fitting) > 1:
        raise ModelNotFound(
            f"{target} has {len(fitting)} models for {dataset}, none of that name: "
            f"name one with --model, of {', '.join(sorted(fitting))}"
        )
    wanted = name or (dataset if dataset in fitting else next(iter(fitting), None))
    versions = [model for model in models if model.name == wanted]
    if not versions:
        there = ", ".join(sorted({model.name for model in models})) or "none"
        what = f"model '{name}'" if name else f"model for {dataset}"
        raise ModelNotFound(f"{target} has no {what}; its models are: {there}")
    found = max(versions, key=lambda model: int(model.version))
    if dataset in TEST_SETS and (found.dataset not in ("", dataset) or len(found.labels) != CLASSES):
        raise UnusableDataset(
            f"model '{found.name}' tells {len(found.labels)} classes of '{found.dataset}' apart, "
            f"which the test set of {dataset} cannot measure: name another model or data set"
        )
    return found


async def evaluate(
    client: AsyncClient,
    model: ModelSummary,
    dataset: Dataset | ImageFiles,
    *,
    batch: int,
    concurrency: int,
    advance: Callable[[int], None],
) -> Evaluation:
    """Send every picture once, raw pixels or a file, ``batch`` a call, with ``concurrency`` calls under way.

    ``advance`` is told the pictures answered, call by call. The client must take ``batch`` pictures in one call.
    Raises ClientError.
    """
    predicted = np.zeros(len(dataset.labels), np.int64)
    latencies_ms: list[float] = []
    places = range(0, len(dataset.labels), batch)
    starts = iter(places)  # shared: each worker takes the next

    async def work() -> None:
        for start in starts:
            pictures = dataset.pictures[start : start + batch]
            began = time.perf_counter()
            answers = await client.classify(pictures, model=model.name, version=model.version)
            latencies_ms.append((time.perf_counter() - began) * 1e3)
            for place, answer in enumerate(answers, start):
                if isinstance(answer, ImageError):
                    raise RequestRefused(
                        f"picture {place} of {dataset.name} is refused: {answer.code}: {answer.message}"
                    )
                predicted[place] = answer.classes[0].index
            advance(len(answers))

    began = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as workers:
            for _ in range(min(concurrency, len(places))):
                workers.create_task(work())
    except ExceptionGroup as failures:
        raise failures.exceptions[0]  # noqa: B904 -- one failed call speaks for all, and keeps its own cause
    seconds = time.perf_counter() - began

    right = predicted == dataset.labels
    classes = tuple(
        ClassScore(label, int(right[dataset.labels == index].sum()), int((dataset.labels == index).sum()))
        for index, label in enumerate(model.labels)
    )
    return Evaluation(model, classes, seconds, tuple(latencies_ms))
