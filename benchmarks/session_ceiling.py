"""The bare ONNX Runtime session shows the model's own ceiling, with as many threads as the server uses."""

import time
from collections.abc import Callable
from statistics import fmean

from benchmarks.samples import Figures, latencies
from benchmarks.workload import Model

BATCHES = (1, 8, 32, 64, 128, 256)
"""Tried to find the best; the last is the server's default limit of one run."""
TRY_S = 0.2
"""Spent on each of them."""


def measurement(model: Model, batch: int, seconds: float) -> Callable[[], Figures]:
    """Images per second, and microseconds a run, of one run after the other for about that long."""

    def run() -> Figures:
        durations = _durations(model, batch, seconds)
        return {"images_per_s": len(durations) * batch / sum(durations) * 1e6, **latencies(durations)}

    return run


def best_measurement(model: Model, seconds: float) -> Callable[[], Figures]:
    """The same, in the batch size that does best."""
    return measurement(model, best_batch(model), seconds)


def best_batch(model: Model) -> int:
    """The batch size with the most images per second.

    Judged by all its runs: those of several threads may be fast or slow by turns, as the threads sleep or not
    (mnist-tiny, 64 rows and two threads: its fastest run is as fast as any, its usual one half as fast).
    """
    return max(BATCHES, key=lambda batch: batch / fmean(_durations(model, batch, TRY_S)))


def _durations(model: Model, batch: int, seconds: float) -> list[float]:
    """Microseconds of each run."""
    feed = {model.input_name: model.images[:batch]}
    model.session.run(None, feed)  # the first run of a shape plans its memory
    durations: list[float] = []
    started = time.perf_counter()
    while not durations or time.perf_counter() - started < seconds:
        before = time.perf_counter_ns()
        model.session.run(None, feed)
        durations.append((time.perf_counter_ns() - before) / 1e3)
    return durations
