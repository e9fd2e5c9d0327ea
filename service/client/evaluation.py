"""A whole test set through a server: accuracy, throughput, latency."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from service.client.aio import AsyncClient
from service.client.dataset import CLASSES, Dataset
from service.client.errors import ModelNotFound, RequestRefused, UnusableDataset
from service.client.results import ImageError, ModelSummary


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
    def images_per_second(self) -> float:
        """Throughput of the whole run."""
        return self.total / self.seconds

    def latency_ms(self, percentile: float) -> float:
        """Latency of a call that ``percentile`` per cent of the calls do not exceed."""
        return float(np.percentile(self.latencies_ms, percentile))


def choose_model(models: Sequence[ModelSummary], *, dataset: str, name: str | None, target: str) -> ModelSummary:
    """Pick the model of that name, or the most accurate one for the data set; of several versions the highest.

    Raises ModelNotFound where there is none, UnusableDataset where the named one is for other data.
    """
    wanted = [model for model in models if (model.name == name if name else model.dataset == dataset)]
    if not wanted:
        there = ", ".join(sorted({model.name for model in models})) or "none"
        what = f"model '{name}'" if name else f"model for {dataset}"
        raise ModelNotFound(f"{target} has no {what}; its models are: {there}")
    best = max(wanted, key=lambda model: (0 if name else model.test_accuracy or 0.0, int(model.version)))
    if best.dataset not in ("", dataset) or len(best.labels) != CLASSES:
        raise UnusableDataset(
            f"model '{best.name}' tells {len(best.labels)} classes of '{best.dataset}' apart, "
            f"which the test set of {dataset} cannot measure: name another model or data set"
        )
    return best


async def evaluate(
    client: AsyncClient,
    model: ModelSummary,
    dataset: Dataset,
    *,
    batch: int,
    concurrency: int,
    advance: Callable[[int], None],
) -> Evaluation:
    """Send every picture once, as raw pixels, ``batch`` a call, with ``concurrency`` calls under way.

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
